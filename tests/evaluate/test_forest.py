"""The picture of a study shows differences where there are any."""

from pathlib import Path

import pytest

from tad_distill.evaluate.forest import Line, draw
from tad_distill.evaluate.intervals import Interval

PLAIN = Line("teacher", None, 15.0, (14.0, 16.0), None)
AHEAD = Interval(mean=2.0, low=1.0, high=3.0, sd=0.5, count=3)
COMPARED = Line("student", None, 30.0, (29.0, 31.0), AHEAD)


@pytest.mark.parametrize(
    ("lines", "shown"), [((PLAIN, COMPARED), True), ((PLAIN,), False), ((), False)]
)
def test_differences_are_drawn_where_there_are_any(
    lines: tuple[Line, ...], shown: bool, tmp_path: Path
) -> None:
    path = tmp_path / "table.svg"
    draw(path, lines, title="A study", axes=("average mAP", "minus control"))
    text = path.read_text()
    assert "<!-- average mAP -->" in text and "<!-- A study -->" in text
    assert ("<!-- minus control -->" in text) == shown
    assert all(f"<!-- {line.title} -->" in text for line in lines)
