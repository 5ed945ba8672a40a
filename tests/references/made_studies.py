"""A study of the demo's rows, and its grid."""

from pathlib import Path
from typing import Any

from tad_distill.config import build
from tad_distill.distill.studies.grid import Grid, Setup
from tad_distill.distill.studies.schema import Study

ROWS: dict[str, dict[str, Any]] = {
    "teacher": {"role": "teacher", "preset": "world_teacher"},
    "rgb": {"role": "baseline", "preset": "world_rgb"},
    "dual": {"role": "control", "preset": "world_control"},
    "student": {"role": "student", "preset": "world_student", "teacher": "teacher"},
    "two_stream": {"role": "upper", "preset": "world_two_stream"},
}


def made(**changes: Any) -> Study:
    """A study of the demo's rows; ``rows`` change those of the same name."""
    table: dict[str, Any] = {"title": "A study", "seeds": 2, "worlds": 2, **changes}
    rows = {name: {"title": name, **row} for name, row in ROWS.items()}
    for name, row in changes.get("rows", {}).items():
        rows[name] = {**rows.get(name, {"title": name}), **row}
    table["rows"] = rows
    table.setdefault(
        "pretrain",
        {
            "tsm_mini:rgb": {"preset": "pretrain_world_rgb"},
            "tsm_mini:tg_luma": {"preset": "pretrain_world_motion"},
        },
    )
    return build(Study, table)


def grid_of(study: Study, out: Path = Path("/out")) -> Grid:
    return Grid(Setup(study=study, shared=out / "worlds"), out)
