"""The page as text: whole, escaped, asking for nothing, and right where data are odd."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_detectors import TRUTH, detector, hits

from tad_distill.console import UserError
from tad_distill.evaluate import paper
from tad_distill.evaluate.detectors import Detector, Telling
from tad_distill.evaluate.page import draw
from tad_distill.evaluate.page.findings import findings
from tad_distill.evaluate.page.markup import VOID
from tad_distill.evaluate.page.page import Page, render
from tad_distill.evaluate.page.published import published
from tad_distill.evaluate.page.run_notes import RunNotes
from tad_distill.evaluate.page.run_notes import read as read_run
from tad_distill.evaluate.page.timeline import MAX_DETECTIONS, Scene

NASTY = """<script>alert("x")</script> & 'y'"""


class Checker(HTMLParser):
    """Follows the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data + " "

    def values(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [value for _, key, value in self.attributes if key == name]


def read(page: str) -> Checker:
    """Parse a page; every element that opens must close."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def scene(made: Detector, video: str = "a") -> Scene:
    annotations = made.result.annotations
    return Scene(Telling(video, "why"), 60.0, annotations[annotations["video"] == video], None)


def page(*detectors: Detector, notes: RunNotes | None = None) -> Checker:
    made = Page(detectors, [scene(detectors[0])], notes or RunNotes(), (), {"protocol": "plain"})
    return read(render(made))


def test_a_page_is_whole_and_names_no_address() -> None:
    made = page(detector(TRUTH, hits("a01", "b0")), detector(TRUTH, hits("a0"), name="other"))
    for name in ("src", "href", "data", "action"):
        assert all(value.startswith(("#", "data:")) for value in made.values(name))
    assert not re.search(r"https?://", made.text)
    assert len(made.values("id")) == len(set(made.values("id")))


def test_names_from_outside_are_text() -> None:
    truth = [(NASTY, NASTY, 0.0, 10.0), (NASTY, "x", 20.0, 30.0)]
    made = detector(truth, [(NASTY, NASTY, 0.9, 0.0, 10.0)], name=NASTY)
    notes = RunNotes(Path(NASTY), {NASTY: NASTY})
    checker = read(
        render(Page([made], [scene(made, NASTY)], notes, [(NASTY, (1.0, None))], {NASTY: 1}))
    )
    assert sum(tag == "script" for tag, _, _ in checker.attributes) == 0  # ours has no attribute
    assert checker.text.count(NASTY) > 5


def test_the_first_detector_stands_last_among_the_rows() -> None:
    made = page(detector(TRUTH, hits("a01")), detector(TRUTH, hits("b0"), name="other"))
    scores = made.text.index("mAP, percent")
    assert scores < made.text.index(" other ", scores) < made.text.index(" own ", scores)


def test_segments_lie_where_they_happen() -> None:
    html = render(Page([detector(TRUTH, hits("a1"))], [scene(detector(TRUTH, hits("a1")))],
                       RunNotes(), (), {}))  # fmt: skip
    boxes = re.findall(r'<rect ([^>]*class="seg [^>]*)>', html)
    found = [dict(re.findall(r'([\w-]+)="([^"]*)"', box)) for box in boxes]
    at = {(b["class"].split()[2], b["x"], b["width"]) for b in found if "data-start" in b}
    # Two annotations at 0 to 5 and 10 to 15 of 60 seconds, and a detection of the second.
    assert at == {
        ("truth", "0%", "8.333%"),
        ("truth", "16.667%", "8.333%"),
        ("right", "16.667%", "8.333%"),
    }


def test_only_the_best_detections_of_a_video_go_into_the_page() -> None:
    many = [("a", "x", 0.5 + i / 1000, 0.0, 5.0) for i in range(200)]
    made = detector(TRUTH, many)
    html = render(Page([made], [scene(made)], RunNotes(), (), {}))
    assert html.count("data-score=") == MAX_DETECTIONS
    assert 'data-score="0.699"' in html and 'data-score="0.5"' not in html


def test_unsure_detections_are_there_but_not_shown() -> None:
    made = detector(TRUTH, [*hits("a01", "b01", "c01", "d01"), ("a", "x", 0.01, 40.0, 50.0)])
    html = render(Page([made], [scene(made)], RunNotes(), (), {}))
    assert len(re.findall(r'class="seg k0 right"', html)) == 2
    assert len(re.findall(r'class="seg k0 wrong off"', html)) == 1
    assert "2 right, 0 wrong" in html


@pytest.mark.parametrize("found", [[], [("a", "x", 0.5, 70.0, 80.0)], [("a", "x", 0.0, 5.0, 5.0)]])
def test_odd_detections_make_a_page(found: list[tuple[str, str, float, float, float]]) -> None:
    text = page(detector(TRUTH, found)).text
    assert not re.search(r"\bnan\b|\binf\b", text.lower())
    assert "No detection is right" in text and "Diagnosis" in text


def test_many_labels_show_their_ends_and_the_rest_on_demand() -> None:
    truth = [("a", f"label {i:03d}", float(i), i + 0.5) for i in range(100)]
    text = page(detector(truth, [("a", "label 000", 0.9, 0.0, 0.5)])).text
    assert "best 12" in text and "worst 12" in text and "all 100 labels" in text


def test_settings_and_losses_of_the_run_are_shown() -> None:
    history = ({"step": 1, "loss": 2.0}, {"step": 9, "loss": 1.0})
    made = detector(TRUTH, hits("a0"))
    text = page(made, notes=RunNotes(Path("runs/s"), {"train": {"lr": 0.25}}, history)).text
    assert "train.lr" in text and "0.25" in text and "Losses" in text
    assert "Losses" not in page(made).text


def test_findings_name_the_costliest_error_and_compare() -> None:
    wrong = [("a", "x", 0.95, 40.0 + i, 45.0 + i) for i in range(3)]
    own = detector(TRUTH, [*wrong, *hits("a01", "b01", "c01", "d01")])
    other = detector(TRUTH, hits("a0"), name="other")
    said = " ".join(findings([own, other]))
    assert "The costliest error is background" in said
    assert "above that of other" in said and "other seeds not counted" in said
    perfect = detector(TRUTH, hits("a01", "b01", "c01", "d01"))
    assert any(line.startswith("No false positive costs") for line in findings([perfect]))


def test_rows_of_the_paper_stand_only_under_its_protocols() -> None:
    assert published("plain", paper.THUMOS) == []
    assert published("thumos-212", (0.5,)) == []
    rows = dict(published("thumos-212", paper.THUMOS))
    assert rows["RGB only (THUMOS'14, TSM18, ActionFormer)"] == (62.3, 55.2, 46.2, 33.8, 20.4, 43.6)
    ((_, values),) = published("activitynet", paper.ACTIVITYNET)
    assert values[0] == 53.73 and values[5] == 35.87 and values[1] is None and values[-1] == 35.58
    made = detector(TRUTH, hits("a0"), tiou=paper.THUMOS)
    shown = read(render(Page([made], [], RunNotes(), published("thumos-211", paper.THUMOS), {})))
    assert paper.HEADING in shown.text and "62.3" in shown.text


def test_a_run_that_is_named_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config.json"):
        read_run(tmp_path, {})
    gone = {"provenance": {"run": str(tmp_path / "gone")}}
    assert (
        read_run(None, gone)
        == RunNotes()
        == read_run(None, {})
        == read_run(None, {"provenance": 3})
    )


def test_a_history_that_a_kill_cut_short_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "history.jsonl").write_text('{"step": 1, "loss": 2}\n[3]\n{"step": 2, "lo')
    notes = read_run(None, {"provenance": {"run": str(tmp_path)}})
    assert notes.settings == {"a": 1} and notes.history == ({"step": 1, "loss": 2},)
    assert "event=broken_lines" in capsys.readouterr().err


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 3), (0, 7200), (-2, 0.001), (1e-9, 2e-9)])
def test_ticks_are_few_and_within_the_range(low: float, high: float) -> None:
    found = draw.ticks(low, high, 10)
    slack = 1e-9 * max(abs(low), abs(high))
    assert 1 <= len(found) <= 11
    assert all(low - slack <= value <= high + slack for value in found)


def test_each_detector_has_a_mark_of_its_own() -> None:
    assert len({draw.mark(i, "0%") for i in range(1, 8)}) == 7
