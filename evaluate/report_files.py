"""What ``eval`` does beyond its table: it diagnoses, writes the page, draws the pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.evaluate.report_options import ReportOptions

if TYPE_CHECKING:
    import pandas as pd

    from tad_distill.data.annotations import AnnotationSet
    from tad_distill.evaluate.charts import Chart
    from tad_distill.evaluate.detections import Detections
    from tad_distill.evaluate.detectors import Detector, Telling
    from tad_distill.evaluate.page.timeline import Scene
    from tad_distill.evaluate.protocols import Result

# A video file up to this size goes into the page; all of them together take at most the second.
MAX_VIDEO_BYTES, MAX_PAGE_BYTES = 3 << 20, 20 << 20


def title(name: str | None, source: Path, header: Mapping[str, Any]) -> str:
    """What to call a detector: as told, by the preset that made it, or by its file."""
    provenance = header.get("provenance")
    preset = provenance.get("preset") if isinstance(provenance, Mapping) else None
    if name:
        return name
    return preset if isinstance(preset, str) and preset else source.stem


def look(
    result: "Result",
    truth: "AnnotationSet",
    found: "Detections",
    source: Path,
    options: ReportOptions,
) -> "Detector":
    """Diagnose the detections that the command has scored; print it if that is wanted."""
    from tad_distill.evaluate.detectors import look_at
    from tad_distill.evaluate.diagnosis import tables

    name = title(options.name, source, found.header)
    detector = look_at(name, str(source), found.header, result, _durations(truth), options.bins)
    if options.diagnose:
        tables.show(detector.diagnosis)
    return detector


def write(
    first: "Detector",
    truth: "AnnotationSet",
    others: Sequence[tuple[str, Path]],
    options: ReportOptions,
) -> None:
    """Write the page and the pictures."""
    detectors = [first, *_others(first, truth, others, options)]
    scenes = _scenes(detectors, truth, options)
    if options.report:
        _write_page(detectors, scenes, truth, options)
    if options.plots:
        _write_plots(detectors, scenes, options.plots, options)


def _durations(truth: "AnnotationSet") -> dict[str, float | None]:
    return {name: video.duration_s for name, video in truth.videos.items()}


def _others(
    first: "Detector",
    truth: "AnnotationSet",
    others: Sequence[tuple[str, Path]],
    options: ReportOptions,
) -> "list[Detector]":
    """Score and diagnose the detectors to compare with, under the same rules."""
    from tad_distill.evaluate import detections
    from tad_distill.evaluate.detectors import look_at
    from tad_distill.evaluate.protocols import score

    found, names = [], {first.name}
    for given, path in others:
        loaded = detections.load(path)
        result = score(truth, loaded.table, first.result.protocol, first.result.subset)
        name = title(given, path, loaded.header)
        if name in names:
            raise UserError(f"{path}: two detectors are called {name}; name it, as OTHER={path}")
        names.add(name)
        found.append(
            look_at(name, str(path), loaded.header, result, _durations(truth), options.bins)
        )
    return found


def _scenes(
    detectors: "Sequence[Detector]", truth: "AnnotationSet", options: ReportOptions
) -> "list[Scene]":
    """The videos to show, with their footage."""
    from tad_distill.evaluate.detectors import Telling, telling
    from tad_distill.evaluate.page.timeline import Scene

    result = detectors[0].result
    unknown = [name for name in options.videos if name not in result.videos]
    if unknown:
        raise UserError(f"{truth.source}: no video {unknown[0]!r} among those that were scored")
    chosen = [Telling(name, "") for name in options.videos] or telling(detectors)
    durations = {telling.video: _duration(telling.video, truth, detectors) for telling in chosen}
    footage = _footage(chosen, durations, options)
    return [
        Scene(
            one,
            durations[one.video],
            result.annotations[result.annotations["video"] == one.video],
            footage.get(one.video),
        )
        for one in chosen
    ]


def _duration(name: str, truth: "AnnotationSet", detectors: "Sequence[Detector]") -> float:
    """The length of a video; where the annotations do not say, until the last thing in it."""
    stated = truth.videos[name].duration_s
    tables: list[pd.DataFrame] = [detectors[0].result.annotations]
    tables += [detector.result.detections for detector in detectors]
    ends = [
        float(t["end_s"][t["video"] == name].max()) for t in tables if (t["video"] == name).any()
    ]
    return stated or max([end for end in ends if end > 0], default=1.0)


def _footage(
    chosen: "Sequence[Telling]", durations: Mapping[str, float], options: ReportOptions
) -> dict[str, Any]:
    """Pictures of the chosen videos that are at hand."""
    from tad_distill.evaluate.page import footage

    if not (options.videos_dir and options.report):
        return {}
    files, taken, room = footage.find(options.videos_dir), {}, MAX_PAGE_BYTES
    missing = [one.video for one in chosen if one.video not in files]
    if missing:
        console.log("no_footage", videos=",".join(missing), folder=options.videos_dir)
    with console.progress("stills", len(chosen)) as tick:
        for one in chosen:
            if one.video in files:
                limit = min(MAX_VIDEO_BYTES, room)
                path = files[one.video]
                found = footage.take(path, options.report, durations[one.video], limit)
                if found:
                    taken[one.video] = found
                    room -= len(found.source)
            tick()
    return taken


def _write_page(
    detectors: "Sequence[Detector]",
    scenes: "Sequence[Scene]",
    truth: "AnnotationSet",
    options: ReportOptions,
) -> None:
    from tad_distill import __version__
    from tad_distill.data.files import write_text
    from tad_distill.evaluate import report
    from tad_distill.evaluate.page.page import Page, render
    from tad_distill.evaluate.page.published import published
    from tad_distill.evaluate.page.run_notes import read

    assert options.report is not None
    result = detectors[0].result
    notes = read(options.run, detectors[0].header)
    sources = {
        "detections": {detector.name: detector.source for detector in detectors},
        "annotations": truth.source,
        "protocol": f"{result.protocol.name}: {result.protocol.about}",
        "subset": result.subset or "all",
        "left out": {name: count for name, count in result.removed.items() if count} or "nothing",
        "found": {name: count for name, count in result.found.items() if count} or "nothing odd",
        "rules": report.document(result)["rules"],
        "software": f"tad-distill {__version__}",
    }
    rows = published(result.protocol.name, result.protocol.tiou)
    write_text(options.report, render(Page(detectors, scenes, notes, rows, sources)))
    console.log("report", file=options.report, bytes=options.report.stat().st_size)
    console.result(str(options.report))


def _write_plots(
    detectors: "Sequence[Detector]",
    scenes: "Sequence[Scene]",
    folder: Path,
    options: ReportOptions,
) -> None:
    from tad_distill.evaluate import chart_data, chart_plots, plots
    from tad_distill.evaluate.page.run_notes import read

    notes = read(options.run, detectors[0].header)
    charts: list[Chart] = [
        *chart_data.precision_recall_charts(detectors),
        chart_data.per_class(detectors),
        *chart_data.profiles(detectors),
        chart_data.prices(detectors),
        chart_data.strengths(detectors),
        chart_data.misses(detectors),
        *chart_data.training(notes.history),
    ]
    for chart in charts:
        chart_plots.draw(folder / f"{chart.key}.png", chart)
    for place, scene in enumerate(scenes):
        tables = {d.name: d.result.detections for d in (*detectors[1:], detectors[0])}
        found = {name: t[t["video"] == scene.chosen.video] for name, t in tables.items()}
        path = folder / f"timeline_{place + 1}.png"
        plots.compare(
            path, scene.annotations, found, duration_s=scene.duration_s, title=scene.chosen.video
        )
    console.log("plots", folder=folder, num_pictures=len(charts) + len(scenes))
