"""The options of ``eval`` for its report: the diagnosis, the page and the pictures."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tad_distill.evaluate.options import EXISTING, WRITTEN

if TYPE_CHECKING:
    from tad_distill.evaluate.diagnosis import BinSet

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
Function = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The options of the report.

    Attributes:
        diagnose: Print the diagnosis.
        report: The page to write.
        plots: The folder for pictures.
        name: What the detector is called.
        bins: Whose bins.
        run: The run's folder.
        videos: Videos to show; empty: the most telling ones.
        videos_dir: Where the video files are.
    """

    diagnose: bool
    report: Path | None
    plots: Path | None
    name: str | None
    bins: "BinSet"
    run: Path | None
    videos: tuple[str, ...]
    videos_dir: Path | None

    @property
    def wanted(self) -> bool:
        """Whether anything is to be done."""
        return self.diagnose or self.report is not None or self.plots is not None


OPTIONS: tuple[Callable[[Function], Function], ...] = (
    click.option(
        "--diagnose",
        is_flag=True,
        help="Print what each type of error costs, after DETAD, and what is missed; --json too.",
    ),
    click.option(
        "--report",
        type=WRITTEN,
        help="Write one HTML page with everything in it: scores, diagnosis, curves, time lines.",
    ),
    click.option(
        "--plots",
        type=click.Path(file_okay=False, path_type=Path),
        help="Write the page's charts into this folder, as PNG.",
    ),
    click.option("--name", help="What to call DETECTIONS in the report, as 'student'."),
    click.option(
        "--bins",
        type=click.Choice(["auto", "activitynet", "thumos", "quantiles"]),
        default="auto",
        show_default=True,
        help="Bins of the diagnosis: a benchmark's, or of equally many annotations. auto: the "
        "protocol's, quantiles where those would put over 80 % into one.",
    ),
    click.option(
        "--run",
        type=FOLDER,
        help="Folder of the run, for losses and settings. By default the one DETECTIONS names.",
    ),
    click.option(
        "--videos",
        multiple=True,
        metavar="NAME",
        help="Show this video in the report; may be repeated. By default up to four telling ones.",
    ),
    click.option(
        "--videos-dir",
        type=FOLDER,
        help="Folder with the video files, NAME.mp4 and the like, to play beside the time lines.",
    ),
)


def report_options(function: Function) -> Function:
    """Give a command the options of the report, as one argument ``reporting``."""

    @wraps(function)
    def packed(*arguments: Any, **settings: Any) -> Any:
        own = {field.name: settings.pop(field.name) for field in fields(ReportOptions)}
        return function(*arguments, reporting=ReportOptions(**own), **settings)

    command: Function = packed
    for option in reversed(OPTIONS):
        command = option(command)
    return command


class Named(click.ParamType):
    """``NAME=FILE``, or a file that is called by its own name."""

    name = "[NAME=]FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """Take a name and an existing file apart."""
        if isinstance(value, tuple):
            return value
        name, equals, path = str(value).partition("=")
        if not equals or Path(value).is_file():
            name, path = "", str(value)
        found: Path = EXISTING.convert(path, param, ctx)
        return name, found
