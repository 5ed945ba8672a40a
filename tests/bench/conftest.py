"""What every measurement says of itself, and where its figures are kept."""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent / "results"


@pytest.fixture(scope="session")
def machine() -> str:
    """Processor, system and Python."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0]} x{len(names)}" if names else platform.processor()
    return f"{processor}, {platform.system()}, Python {platform.python_version()}"


@pytest.fixture(scope="session")
def publish() -> Callable[[str, Sequence[str]], None]:
    """Print the lines of a report, and write them to ``results/NAME.md``."""

    def write(name: str, lines: Sequence[str]) -> None:
        text = "\n".join(lines).rstrip("\n") + "\n"
        print("\n" + text)
        (RESULTS / f"{name}.md").write_text(text)

    return write


@pytest.fixture(scope="session")
def added_mb() -> Callable[[Callable[[], object]], str]:
    """How much memory a call adds at its peak: other measurements share this process."""

    def measure(call: Callable[[], object]) -> str:
        reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
        if not reset.exists():
            return "unknown"
        reset.write_text("5")  # the peak begins anew at what is in use now
        before = _kilobytes(status, "VmRSS")
        call()
        return f"{(_kilobytes(status, 'VmHWM') - before) / 1024:.0f}"

    return measure


def _kilobytes(status: Path, key: str) -> int:
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1])
