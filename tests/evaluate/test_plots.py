"""Pictures: what is drawn where; that nothing overlaps is looked at by eye."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from tad_distill.console import UsageError
from tad_distill.evaluate import plots
from tad_distill.evaluate.figures import COLOURS, Look, paler

DETECTION = ["label", "score", "start_s", "end_s"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures as they are when they are written."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: object, **kwargs: object) -> None:
        figures.append(self)
        save(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    yield figures


def boxes(axes: Axes) -> list[tuple[float, float, float, float]]:
    """x0, x1, y0, y1 of every bar."""
    extents = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    return [(e.x0, e.x1, e.y0, e.y1) for e in extents]


def some(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=DETECTION).astype({"score": float})


def test_compare_draws_as_many_detections_as_annotations(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    truth = some(("Jump", 1, 0, 10), ("Run", 1, 20, 30)).drop(columns="score")
    found = some(("Jump", 0.2, 50, 60), ("Jump", 0.9, 1, 9), ("Run", 0.8, 21, 29))
    plots.compare(tmp_path / "a.png", truth, {"mine": found}, duration_s=60, title="v")
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["annotations", "mine"]
    assert [(round(x0), round(x1)) for x0, x1, _, _ in boxes(axes)] == [
        (0, 10), (20, 30), (1, 9), (21, 29),
    ]  # fmt: skip
    colours = [patch.get_facecolor() for patch in axes.patches]
    assert colours[0] == colours[2] != colours[1] == colours[3]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["Jump", "Run"]


def test_segments_that_overlap_in_time_lie_in_different_lanes(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 80, 30)
    found = some(*(("Jump", 0.5, s, s + rng.uniform(1, 20)) for s in start))
    plots.detections(tmp_path / "a.png", found, duration_s=100)
    placed = boxes(drawn[0].axes[0])
    assert len(placed) == 30
    for i, (a0, a1, ya, _) in enumerate(placed):
        for b0, b1, yb, _ in placed[:i]:
            assert abs(ya - yb) > 1e-6 or a0 >= b1 - 1e-6 or b0 >= a1 - 1e-6


def test_detections_have_a_row_per_label_and_fade_with_the_score(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    found = some(("Run", 0.9, 0, 9), ("Run", 0.3, 10, 19), ("Jump", 0.05, 0, 9), ("Fly", 0.5, 3, 9))
    plots.detections(tmp_path / "a.png", found, duration_s=20, title="mine")
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Fly", "Run"]
    assert axes.get_title(loc="left") == "mine: 3 of 4 detections, scores from 0.1"
    strong, weak = (sum(to_rgb(patch.get_facecolor())) for patch in axes.patches[1:])
    assert strong < weak
    assert {text.get_text() for text in axes.texts} == {"0.90", "0.30", "0.50"}


def test_long_videos_have_minutes_on_the_axis(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.detections(tmp_path / "a.png", some(("Run", 0.9, 60, 90)), duration_s=600)
    ticks = [text.get_text() for text in drawn[0].axes[0].get_xticklabels()]
    assert "5:00" in ticks and len(ticks) <= 14


def test_bars_show_mean_spread_and_every_run(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = {"RGB": [0.4, 0.5, 0.6], "student": [0.7]}
    plots.bars(tmp_path / "a.png", rows, highlight={"student"})
    (axes,) = drawn[0].axes
    assert [x1 - x0 for x0, x1, _, _ in boxes(axes)] == pytest.approx([50, 70])
    assert [text.get_text() for text in axes.texts] == ["50.0 ± 10.0", "70.0"]
    (dots,) = (c for c in axes.collections if len(np.asarray(c.get_offsets())) == 3)
    assert sorted(np.asarray(dots.get_offsets())[:, 0]) == pytest.approx([40, 50, 60])
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()


def test_texts_do_not_run_out_of_the_picture(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = {f"a rather long name of a row {i}": [0.5 + i / 10, 0.55 + i / 10] for i in range(4)}
    plots.bars(tmp_path / "a.png", rows, title="title")
    figure = drawn[0]
    for text in [*figure.axes[0].texts, *figure.axes[0].get_yticklabels()]:
        box = text.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width


def test_nothing_to_draw_is_drawn_as_nothing(tmp_path: Path, drawn: list[Figure]) -> None:
    none = some()
    plots.compare(tmp_path / "a.png", none, {"mine": none}, duration_s=10)
    plots.detections(tmp_path / "b.png", none, duration_s=10)
    plots.bars(tmp_path / "c.png", {"a": [0.0], "b": [0.0]})
    assert [len(figure.axes[0].patches) for figure in drawn] == [0, 0, 2]
    assert [text.get_text() for text in drawn[1].axes[0].texts] == ["nothing to show"]


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_same_numbers_give_the_same_file(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        plots.bars(tmp_path / f"{name}{ending}", {"x": [0.1, 0.2]})
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a.bmp: pictures are written as .png, .pdf, .svg"):
        plots.bars(tmp_path / "a.bmp", {"x": [0.1]})


def test_labels_have_different_looks_until_all_hatches_are_used() -> None:
    looks = {Look.of(i) for i in range(6 * len(COLOURS))}
    assert len(looks) == 6 * len(COLOURS)


def test_paler_goes_from_white_to_the_colour() -> None:
    assert [paler("#0072B2", s) for s in (0.0, 1.0)] == ["#ffffff", "#0072b2"]


def test_long_names_and_many_labels_leave_room_for_the_picture(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    labels = ["a label as long as a whole sentence of the language", *(f"n{i}" for i in range(40))]
    found = some(*((label, 0.5, 10.0 * i, 10.0 * i + 8) for i, label in enumerate(labels)))
    name = "a_name_of_a_file_that_tells_the_camera_and_the_date_and_the_hour_2024-01-03T10"
    plots.compare(
        tmp_path / "a.png", found.drop(columns="score"), {name: found}, duration_s=420, title=name
    )
    plots.detections(tmp_path / "b.png", found, duration_s=420, title=name)
    for figure in drawn:
        (axes,) = figure.axes
        assert axes.bbox.width > 0.6 * figure.bbox.width
        title = axes.get_title(loc="left")
        (heading,) = (text for text in axes.findobj(Text) if text.get_text() == title)
        assert heading.get_window_extent().x1 <= figure.bbox.width
    below = drawn[0].legends[0].get_window_extent()
    assert below.y0 >= 0 and below.y1 <= drawn[0].axes[0].bbox.y0
    assert "40 of 41 detections" in drawn[1].axes[0].get_title(loc="left")


def test_numbers_in_labels_are_in_reading_order(tmp_path: Path, drawn: list[Figure]) -> None:
    found = some(*((f"take {i}", 0.5, i, i + 1) for i in (10, 9, 1)))
    plots.detections(tmp_path / "a.png", found, duration_s=20)
    ticks = [tick.get_text() for tick in drawn[0].axes[0].get_yticklabels()]
    assert ticks == ["take 1", "take 9", "take 10"]
