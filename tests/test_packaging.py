"""What is installed is what the repository holds, and nothing beside it."""

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("data", "distill", "evaluate", "extract")


def test_every_package_folder_is_listed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    inits = (init for stage in STAGES for init in (ROOT / stage).rglob("__init__.py"))
    on_disk = {"tad_distill." + ".".join(init.parent.relative_to(ROOT).parts) for init in inits}
    assert listed == on_disk | {"tad_distill"}


def test_root_holds_only_the_modules_we_ship() -> None:
    shipped = {
        "__init__.py",
        "__main__.py",
        "check.py",
        "cli.py",
        "config.py",
        "console.py",
        "demo.py",
        "detect.py",
        "job.py",
        "steps.py",
        "study.py",
        "units.py",
    }
    assert {path.name for path in ROOT.glob("*.py")} == shipped


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tracked tree, so that no stale build folder leaks in."""
    source = tmp_path_factory.mktemp("source")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out)]
    ended = subprocess.run([*build, str(source)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_a_wheel_brings_one_package_with_its_presets_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tad_distill"}
    assert {"tad_distill/py.typed", "tad_distill/extract/tvl1/kernel.cpp"} <= {*names}
    assert {f"tad_distill/evaluate/page/{name}" for name in ("style.css", "script.js")} < set(names)
    assert "tad_distill/extract/public/files.toml" in names
    assert not [name for name in names if "/tests/" in name or "conftest" in name]
    for presets in ("distill/presets", "distill/studies", "extract/presets"):
        on_disk = {path.name for path in (ROOT / presets).glob("*.toml")}
        assert {
            Path(name).name
            for name in names
            if name.startswith(f"tad_distill/{presets}/") and name.endswith(".toml")
        } == on_disk


@pytest.mark.slow
def test_an_installed_wheel_works_beside_a_package_named_evaluate(
    wheel: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "evaluate").mkdir()
    (site / "evaluate/__init__.py").write_text("name = 'the well-known one'\n")
    code = (
        "import evaluate, tad_distill.evaluate.mean_ap, tad_distill.distill.train\n"
        "print(evaluate.name, tad_distill.__file__)"
    )
    # -I hides the clone; the site folder comes first, before the editable install's import hook.
    program = f"import sys; sys.path.insert(0, {str(site)!r}); {code.replace(chr(10), ';')}"
    ended = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[-1] == str(site / "tad_distill/__init__.py")
    assert ended.stdout.startswith("the well-known one")
