"""setup.cfg lists by hand what discovery cannot find; these tests keep the list true."""

import configparser
from pathlib import Path

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
        "cli.py",
        "config.py",
        "console.py",
        "demo.py",
        "detect.py",
    }
    assert {path.name for path in ROOT.glob("*.py")} == shipped
