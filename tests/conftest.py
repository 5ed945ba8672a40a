"""Fixtures that several test folders use."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the clone: golden outputs and real videos, which do not travel."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"needs the reference data in {path.name}/ beside the clone")
    return path
