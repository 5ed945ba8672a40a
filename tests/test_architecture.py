"""Imports between the stages point one way, and the light parts stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "data": {"data"},
    "evaluate": {"evaluate", "data"},
    "extract": {"extract", "data"},
    "distill": {"distill", "data", "evaluate"},
}
# The files of the light stage that know backbones: one copies the last stage of one, the others
# decode frames and run one inside the training loop.
MAY_ALSO_IMPORT = {
    "distill/adapter/stage.py": {"extract"},
    "distill/finetune/frames.py": {"extract"},
    "distill/finetune/network.py": {"extract"},
}
LIGHT = (
    "cli console config data.annotations data.timeline evaluate.mean_ap evaluate.paired "
    "evaluate.tables evaluate.diagnosis evaluate.page.page evaluate.report_files"
).split()


def imported_stages(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {n.split(".")[1] for n in names if n.startswith("tad_distill.")} & MAY_IMPORT.keys()


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_imports_point_downwards(stage: str) -> None:
    for source in (ROOT / stage).rglob("*.py"):
        name = str(source.relative_to(ROOT))
        allowed = MAY_IMPORT[stage] | MAY_ALSO_IMPORT.get(name, set())
        assert imported_stages(source) <= allowed, name


@pytest.mark.parametrize("module", LIGHT)
def test_imports_without_torch(module: str) -> None:
    code = f"import sys, tad_distill.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_only_the_console_imports_rich() -> None:
    users = {
        str(source.relative_to(ROOT))
        for source in ROOT.rglob("*.py")
        if ".venv" not in source.parts and "build" not in source.parts
        if any(
            (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich")
            or (
                isinstance(node, ast.Import)
                and any(a.name.split(".")[0] == "rich" for a in node.names)
            )
            for node in ast.walk(ast.parse(source.read_text()))
        )
    }
    assert users == {"console.py"}
