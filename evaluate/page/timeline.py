"""The time line of one video, in the manner of the paper's Fig. 5: truth above the detectors.

Everything lies at percentages of the width, so that the drawing follows the page. What the script
needs stands in data attributes; without it the picture is that of each detector's best F1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tad_distill.evaluate.detectors import Detector, Telling
from tad_distill.evaluate.figures import COLOURS, in_reading_order
from tad_distill.evaluate.page.draw import ticks
from tad_distill.evaluate.page.footage import Footage
from tad_distill.evaluate.page.markup import percent, tag, text
from tad_distill.evaluate.timelines import MINUTES_FROM_S, Row

if TYPE_CHECKING:
    import pandas as pd

# Heights in pixels: a lane of annotations, a row of detections, between rows, the axis.
LANE, TRACK, GAP, AXIS = 20, 36, 8, 20

# So many detections of a video go into the page per detector, the best ones.
MAX_DETECTIONS = 60

# Stills in the strip above the rows; a narrow page shows every second.
NUM_IN_STRIP = 12


@dataclass(frozen=True)
class Scene:
    """What is known of one video.

    Attributes:
        chosen: Which video, and why.
        duration_s: Its length.
        annotations: Its annotations: label, start_s, end_s.
        footage: Its pictures, if they are at hand.
    """

    chosen: Telling
    duration_s: float
    annotations: "pd.DataFrame"
    footage: Footage | None


@dataclass(frozen=True)
class _Track:
    """One row of the drawing: its name in HTML, its height, what is drawn in it."""

    name: str
    height: int
    parts: str


def looks(scenes: Sequence[Scene], detectors: Sequence[Detector]) -> dict[str, int]:
    """A number for the look of each label that is shown, the annotated ones first."""
    videos = {scene.chosen.video for scene in scenes}
    annotated = {str(label) for scene in scenes for label in scene.annotations["label"]}
    found = {
        str(label)
        for d in detectors
        for label in d.result.detections["label"][d.result.detections["video"].isin(videos)]
    }
    names = sorted(annotated, key=in_reading_order)
    names += sorted(found - annotated, key=in_reading_order)
    return {name: place for place, name in enumerate(names)}


def draw(scene: Scene, detectors: Sequence[Detector], look: Mapping[str, int]) -> str:
    """The section of one video.

    Args:
        scene: The video.
        detectors: From the top; the one that is reported on comes last.
        look: The number of each label's look.
    """
    tracks = [_truth(scene, look), *(_found(scene, detector, look) for detector in detectors)]
    top, drawn, names = 0, [], []
    height = sum(track.height + GAP for track in tracks) + AXIS
    for track in tracks:
        place = {"y": top, "height": track.height, "width": "100%", "overflow": "visible"}
        drawn.append(tag("svg", place, track.parts))
        names.append(tag("div", {"style": f"height:{track.height}px"}, track.name))
        top += track.height + GAP
    cursor = tag("line", {"class": "cursor", "x1": 0, "x2": 0, "y1": 0, "y2": height - AXIS})
    canvas = {"class": "tracks-svg", "width": "100%", "height": height, "aria-hidden": "true"}
    svg = tag("svg", canvas, _axis(scene.duration_s, height), *drawn, cursor)
    name = scene.chosen.video
    slider = {
        "class": "tracks", "tabindex": 0, "role": "slider", "aria-label": f"Time in {name}",
        "aria-valuemin": 0, "aria-valuemax": scene.duration_s, "aria-valuenow": 0,
        "aria-valuetext": "0 s",
    }  # fmt: skip
    film = _film(scene.footage)
    facts = {"data-duration": f"{scene.duration_s:.6g}", "style": _sheet(scene.footage)}
    return tag(
        "article",
        {"class": "scene", **facts},
        tag("h3", None, text(name), " ", tag("small", None, text(scene.chosen.why))),
        tag(
            "div",
            {"class": "stage"},
            _screen(scene),
            tag(
                "div",
                {"class": "timeline"},
                tag("div", {"class": "names" + (" below-film" if film else "")}, *names),
                tag("div", slider, film, svg),
            ),
        ),
        tag("output", {"class": "readout", "aria-live": "polite"}, "&nbsp;"),
        _legend(scene, detectors, look),
    )  # fmt: skip


def _truth(scene: Scene, look: Mapping[str, int]) -> _Track:
    row = Row.of("annotations", scene.annotations)
    parts = []
    for i, (label, start, end) in enumerate(
        row.segments[["label", "start_s", "end_s"]].itertuples(index=False)
    ):
        place = {"y": int(row.lanes[i]) * LANE, "height": LANE - 2}
        said = f"{label}, {start:.2f} to {end:.2f} s"
        word = tag("text", {"x": 4, "y": 13, "class": f"on k{look[label] % 8}"}, text(label))
        inside = tag("svg", {**_span(start, end, scene.duration_s), **place}, word)
        parts.append(_segment(scene, (label, start, end), look, place, "truth", said) + inside)
    name = tag("b", None, "annotations")
    return _Track(name, row.num_lanes * LANE, "".join(parts))


def _found(scene: Scene, detector: Detector, look: Mapping[str, int]) -> _Track:
    table = detector.result.detections
    own = table[(table["video"] == scene.chosen.video).to_numpy()]
    right = detector.right[(table["video"] == scene.chosen.video).to_numpy()]
    best = own.assign(right=right).nlargest(MAX_DETECTIONS, "score", keep="first")
    largest = max(float(table["score"].max()), 1e-12)
    parts = [tag("line", {"x1": 0, "x2": "100%", "y1": TRACK, "y2": TRACK, "class": "ground"})]
    wanted, counts = detector.operating.min_score, [0, 0]
    columns = ["label", "start_s", "end_s", "score", "right"]
    for label, start, end, score, is_right in best[columns].itertuples(index=False):
        share = max(score, 0.0) / largest
        tall = round((0.3 + 0.7 * share) * TRACK)
        kind = "right" if is_right else "wrong"
        shown = score >= wanted
        counts[not is_right] += shown
        said = f"{label} {score:.3g}, {start:.2f} to {end:.2f} s, {kind}"
        place = {"y": TRACK - tall, "height": tall, "data-score": f"{score:.6g}",
                 "style": f"--strength:{0.4 + 0.6 * share:.2f}"}  # fmt: skip
        kind += "" if shown else " off"
        parts.append(_segment(scene, (label, start, end), look, place, kind, said))
    counted = tag("small", {"class": "count"}, f"{counts[0]} right, {counts[1]} wrong")
    at = tag("small", {"class": "from", "data-own": f"{wanted:.6g}"}, f"≥ {wanted:.2f}")
    name = tag("b", {"title": detector.name}, text(detector.name)) + counted + at
    return _Track(name, TRACK, "".join(parts))


def _segment(
    scene: Scene,
    segment: tuple[str, float, float],
    look: Mapping[str, int],
    place: Mapping[str, object],
    kind: str,
    said: str,
) -> str:
    """A box; one of a label beyond the eighth is hatched as well."""
    label, start, end = segment
    number = look.get(label, 0)
    box = {
        **_span(start, end, scene.duration_s), **place, "rx": 2,
        "class": f"seg k{number % 8} {kind}", "data-label": label,
        "data-start": f"{start:.6g}", "data-end": f"{end:.6g}",
    }  # fmt: skip
    drawn = tag("rect", box, tag("title", None, text(said)))
    if number >= len(COLOURS):
        over = {key: box[key] for key in ("x", "width", "y", "height", "rx")}
        off = " off" if kind.endswith("off") else ""
        kinds = {"class": f"hatch{off}", "fill": f"url(#hatch{number // 8 % 3})"}
        drawn += tag("rect", {**over, **kinds})
    return drawn


def _span(start: float, end: float, duration_s: float) -> dict[str, object]:
    """Place and width in percent; what is outside the video is cut."""
    low = min(max(start / duration_s, 0.0), 1.0)
    high = min(max(end / duration_s, low), 1.0)
    return {"x": percent(low), "width": percent(max(high - low, 0.0015))}


def _axis(duration_s: float, height: int) -> str:
    parts = []
    for i, value in enumerate(ticks(0, duration_s, 10)):
        at, minor = percent(value / duration_s), " minor" if i % 2 else ""
        line = {"x1": at, "x2": at, "y1": 0, "y2": height - AXIS + 4, "class": "grid" + minor}
        anchor = "start" if not i else "end" if value > 0.97 * duration_s else "middle"
        label = {"x": at, "y": height - 4, "text-anchor": anchor, "class": minor.strip() or None}
        parts += [tag("line", line), tag("text", label, text(clock(value, duration_s)))]
    return "".join(parts)


def clock(value: float, duration_s: float) -> str:
    """A time as one reads it: seconds in a short video, minutes in a long one.

    >>> clock(5, 20), clock(65, 300)
    ('5 s', '1:05')
    """
    if duration_s < MINUTES_FROM_S:
        return f"{value:g} s"
    return f"{int(value) // 60}:{int(value) % 60:02d}"


def _sheet(footage: Footage | None) -> str | None:
    if footage is None:
        return None
    return (
        f"--sheet:url({footage.sheet});--stills:{footage.num_stills};--aspect:{footage.aspect:.4f}"
    )


def _screen(scene: Scene) -> str:
    """The video, or a still that follows the cursor; both stand there if the file may fail."""
    footage = scene.footage
    if footage is None:
        return ""
    about = {"class": "still", "role": "img", "aria-label": f"Still of {scene.chosen.video}",
             "data-stills": footage.num_stills}  # fmt: skip
    still = tag("div", about)
    if footage.source:
        settings = {"controls": "", "muted": "", "playsinline": "", "preload": "metadata",
                    "src": footage.source, "aria-label": scene.chosen.video}  # fmt: skip
        return tag("div", {"class": "screen has-video"}, tag("video", settings), still)
    button = tag("button", {"type": "button", "class": "play"}, "Play")
    note = tag("small", None, text(footage.why_not))
    return tag("div", {"class": "screen"}, still, button, note)


def _film(footage: Footage | None) -> str:
    """Stills along the time line."""
    if footage is None:
        return ""
    frames = []
    for i in range(NUM_IN_STRIP):
        still = min(int((i + 0.5) / NUM_IN_STRIP * footage.num_stills), footage.num_stills - 1)
        inner = tag("b", {"style": f"--still:{still}"})
        frames.append(tag("i", {"class": "minor" if i % 2 else None}, inner))
    return tag("div", {"class": "film", "aria-hidden": "true"}, *frames)


def _legend(scene: Scene, detectors: Sequence[Detector], look: Mapping[str, int]) -> str:
    """The labels that are annotated, and those that are shown at first."""
    shown = {str(label) for label in scene.annotations["label"]}
    for detector in detectors:
        table = detector.result.detections
        sure = table["score"] >= detector.operating.min_score
        shown |= {str(n) for n in table["label"][(table["video"] == scene.chosen.video) & sure]}
    items = []
    for label in sorted(shown & look.keys(), key=look.__getitem__):
        box = {"width": 14, "height": 12, "class": f"seg truth k{look[label] % 8}"}
        hatch = f"url(#hatch{look[label] // 8 % 3})" if look[label] >= len(COLOURS) else "none"
        parts = tag("rect", box), tag("rect", {"width": 14, "height": 12, "fill": hatch})
        swatch = tag(
            "svg", {"class": "key", "width": 14, "height": 12, "aria-hidden": "true"}, *parts
        )
        items.append(tag("li", None, swatch, text(label)))
    return tag("ul", {"class": "legend"}, *items)
