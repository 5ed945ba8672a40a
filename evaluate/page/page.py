"""One HTML file with everything in it: text, tables, drawings, stills, style and script."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from tad_distill import __version__
from tad_distill.evaluate import chart_data
from tad_distill.evaluate.detectors import Detector
from tad_distill.evaluate.diagnosis.characteristics import ABOUT
from tad_distill.evaluate.diagnosis.strata import MIN_PRECISION
from tad_distill.evaluate.page import draw, timeline
from tad_distill.evaluate.page.findings import findings
from tad_distill.evaluate.page.markup import lines, tag, text
from tad_distill.evaluate.page.published import PaperRow
from tad_distill.evaluate.page.run_notes import RunNotes, flat
from tad_distill.evaluate.paper import HEADING

# Longer tables of labels show the best and the worst first and the rest on demand.
MAX_LABELS = 40
NUM_AT_ENDS = 12

# A browser that obeys this asks nothing of any network, whatever the file holds.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; media-src data: file: 'self'"
)


@dataclass(frozen=True)
class Page:
    """What a page is made of.

    Attributes:
        detectors: The one that is reported on, then those it is compared with.
        scenes: Videos to show.
        notes: The run that made the detections.
        paper: Published figures under the same protocol; empty where there are none.
        sources: Files and rules, to be named at the end.
    """

    detectors: Sequence[Detector]
    scenes: Sequence[timeline.Scene]
    notes: RunNotes
    paper: Sequence[PaperRow]
    sources: Mapping[str, Any]


def render(page: Page) -> str:
    """The page as text."""
    first = page.detectors[0]
    sections = [
        ("scores", "Scores", _scores(page)),
        ("diagnosis", "Diagnosis", _diagnosis(page.detectors)),
        ("curves", "Precision and recall", _figures(page)),
        ("labels", "Labels", _labels(page.detectors)),
        ("videos", "Videos", _videos(page)),
        ("training", "Training", _training(page.notes)),
        ("provenance", "Settings and provenance", _provenance(page)),
    ]
    sections = [section for section in sections if section[2]]
    links = [tag("a", {"href": f"#{key}"}, text(title)) for key, title, _ in sections]
    title = f"{first.name}: {_subtitle(first)}"
    head = [
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        tag("link", {"rel": "icon", "href": "data:,"}),
        tag("title", None, text(title)),
        tag("style", None, _resource("style.css")),
    ]
    body = [
        tag("header", None, tag("h1", None, text(first.name)),
            tag("p", None, text(_subtitle(first))), tag("nav", {"aria-label": "Sections"}, *links)),
        tag("main", None, lines(
            tag("section", {"id": key, "aria-labelledby": f"{key}-title"},
                tag("h2", {"id": f"{key}-title"}, text(title)), inside)
            for key, title, inside in sections)),
        tag("footer", None, f"Written by tad-distill {text(__version__)}."),
        HATCHES,
        tag("script", None, _resource("script.js")),
    ]  # fmt: skip
    html = tag(
        "html", {"lang": "en"}, tag("head", None, lines(head)), tag("body", None, lines(body))
    )
    return f"<!doctype html>\n{html}\n"


# Patterns laid over the colours of labels beyond the eighth.
HATCHES = tag(
    "svg",
    {"width": 0, "height": 0, "aria-hidden": "true", "class": "defs"},
    *(
        tag(
            "pattern",
            {"id": f"hatch{i}", "width": 6, "height": 6, "patternUnits": "userSpaceOnUse"},
            tag("path", {"d": shape, "class": "hatching"}),
        )
        for i, shape in enumerate(
            ("M-1,1 1,-1M0,6 6,0M5,7 7,5", "M-1,5 1,7M0,0 6,6M5,-1 7,1", "M3,0V6")
        )
    ),
)


def _resource(name: str) -> str:
    return files("tad_distill.evaluate.page").joinpath(name).read_text("utf-8")


def _subtitle(detector: Detector) -> str:
    result = detector.result
    subset = f"subset {result.subset}" if result.subset else "all subsets"
    return (
        f"protocol {result.protocol.name}, {subset}, {result.num_videos} videos, "
        f"{result.scores.num_annotations} annotations, {result.scores.num_detections} detections"
    )


def _scores(page: Page) -> str:
    first = page.detectors[0]
    tiou = first.result.scores.tiou
    head = [tag("th", {"scope": "col"}, "mAP, percent, at tIoU")]
    head += [tag("th", {"scope": "col", "class": "number"}, f"{t:.4g}") for t in tiou]
    head.append(tag("th", {"scope": "col", "class": "number"}, "average"))
    rows = []
    for detector in (*page.detectors[1:], first):
        scores = detector.result.scores
        values = [100 * float(v) for v in (*scores.mAP, scores.average_mAP)]
        rows.append(_row(detector.name, values, "own" if detector is first else None))
    bodies = [tag("tbody", None, *rows)]
    if page.paper:
        heading = tag("th", {"colspan": len(tiou) + 2, "scope": "colgroup"}, text(HEADING))
        published = [_row(name, values, None) for name, values in page.paper]
        bodies.append(tag("tbody", None, tag("tr", {"class": "group"}, heading), *published))
    table = tag("table", {"class": "scores"}, tag("thead", None, tag("tr", None, *head)), *bodies)
    items = [tag("li", None, text(line)) for line in findings(page.detectors)]
    return tag("div", {"class": "scroll", "tabindex": 0, "role": "region",
                       "aria-label": "Table of scores"}, table) + tag(
        "ul", {"class": "findings"}, *items)  # fmt: skip


def _row(name: str, values: Sequence[float | None], kind: str | None) -> str:
    cells = [
        tag("td", {"class": "number"}, "–" if value is None else f"{value:.1f}") for value in values
    ]
    return tag("tr", {"class": kind}, tag("th", {"scope": "row"}, text(name)), *cells)


def _diagnosis(detectors: Sequence[Detector]) -> str:
    stacks = chart_data.profiles(detectors)
    prices = chart_data.prices(detectors)
    strengths, misses = chart_data.strengths(detectors), chart_data.misses(detectors)
    edges = {s.of.name: s.of.edges for s in detectors[0].diagnosis.strata}
    whose = ", ".join(f"{name} {whose}" for name, whose in edges.items())
    about = "; ".join(f"{name}: {said}" for name, said in ABOUT.items())
    return lines(
        (
            tag("p", {"class": "note"}, "After DETAD (Alwassel et al., ECCV 2018). The best "
                "detections of each label are taken in groups as large as its number of "
                "annotations, G, and called by the annotation that they overlap most."),
            tag("div", {"class": "charts"}, *(draw.stack_chart(stack) for stack in stacks)),
            draw.stack_legend(stacks[0]),
            tag("h3", None, "What errors cost"),
            tag("p", {"class": "note"}, "Points of average mAP that the best 10 G detections gain "
                "if one type of error is taken out of them, and what they lack even without any "
                "false positive."),
            tag("div", {"class": "together"}, draw.bar_table([prices]),
                draw.mark_legend(prices)),
            tag("h3", None, "Strengths and misses by kind of annotation"),
            tag("p", {"class": "note"}, text(
                f"{about}. Bins: {whose}. Normalised mAP makes bins of differing size comparable. "
                f"Missed: found by no detection with a normalised precision above "
                f"{100 * MIN_PRECISION:g} %. DETAD's context and agreement need further "
                "annotators and are not here; the gap is ours.")),
            draw.bar_table([strengths, misses]),
            draw.mark_legend(strengths),
        )
    )  # fmt: skip


def _figures(page: Page) -> str:
    charts = chart_data.precision_recall_charts(page.detectors)
    return tag("div", {"class": "charts"}, *map(draw.line_chart, charts))


def _labels(detectors: Sequence[Detector]) -> str:
    chart = chart_data.per_class(detectors)
    legend = draw.mark_legend(chart)
    if len(chart.rows) <= MAX_LABELS:
        return draw.bar_table([chart]) + legend
    ends: list[str] = []
    for title, rows in (("best", chart.rows[:NUM_AT_ENDS]), ("worst", chart.rows[-NUM_AT_ENDS:])):
        grouped = tuple(row._replace(group=f"{title} {NUM_AT_ENDS}") for row in rows)
        ends.append(draw.bar_table([replace(chart, rows=grouped)]))
    summary = tag("summary", None, f"all {len(chart.rows)} labels")
    return lines((*ends, legend, tag("details", None, summary, draw.bar_table([chart]))))


def _videos(page: Page) -> str:
    if not page.scenes:
        return ""
    first, *others = page.detectors
    look = timeline.looks(page.scenes, page.detectors)
    note = tag("p", {"class": "note"}, text(
        "A box per detection, as tall as its score; filled if it is right at tIoU "
        f"{first.tiou:.2g}, hollow if not. The {timeline.MAX_DETECTIONS} best of a video are "
        "here; shown are those from the score of each detector's best F1. Click, drag or use the "
        "arrow keys to move in time, up and down for the annotations, space to play."))  # fmt: skip
    slider = {"type": "range", "id": "min-score", "min": 0, "max": 1, "step": 0.01,
              "value": f"{first.operating.min_score:.2f}"}  # fmt: skip
    control = tag(
        "form",
        {"class": "control"},
        tag("label", {"for": "min-score"}, "Scores from"),
        tag("input", slider),
        tag("output", {"for": "min-score"}, "each at its best F1"),
        tag("button", {"type": "reset"}, "Each at its best F1"),
    )
    drawn = [timeline.draw(scene, [*others, first], look) for scene in page.scenes]
    return lines((note, control, *drawn))


def _training(notes: RunNotes) -> str:
    charts = chart_data.training(notes.history)
    return tag("div", {"class": "charts"}, *map(draw.line_chart, charts)) if charts else ""


def _provenance(page: Page) -> str:
    parts = [_settings("Sources and rules", page.sources, opened=True)]
    for detector in page.detectors:
        header = {k: v for k, v in detector.header.items() if k not in ("version", "external_data")}
        parts.append(_settings(f"Provenance of {detector.name}", header))
    if page.notes.path:
        parts.append(_settings(f"Settings of the run {page.notes.path}", page.notes.settings))
    return lines(part for part in parts if part)


def _settings(title: str, values: Mapping[str, Any], opened: bool = False) -> str:
    if not values:
        return ""
    plain = json.loads(json.dumps(values, default=str))
    rows = [
        tag("tr", None, tag("th", {"scope": "row"}, text(key)), tag("td", None, text(value)))
        for key, value in flat(plain)
    ]
    table = tag("table", {"class": "settings"}, tag("tbody", None, lines(rows)))
    return tag(
        "details", {"open": "" if opened else None}, tag("summary", None, text(title)), table
    )
