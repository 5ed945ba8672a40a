"""The options that all scoring commands share: what is true, and under which protocol."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tad_distill.console import UsageError, UserError

if TYPE_CHECKING:
    from tad_distill.evaluate.matching import TieOrder
    from tad_distill.evaluate.protocols import Protocol, UnknownVideos

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
WRITTEN = click.Path(dir_okay=False, path_type=Path)

Function = Callable[..., Any]

OPTIONS: tuple[Callable[[Function], Function], ...] = (
    click.option(
        "--annotations",
        type=EXISTING,
        required=True,
        help="What is true: JSON or CSV in any of the usual forms.",
    ),
    click.option("--subset", help="Score this subset, as 'test'. By default the protocol's."),
    click.option(
        "--protocol",
        "protocol_name",
        default="plain",
        show_default=True,
        help="The rules: plain, activitynet, thumos-212, thumos-211 or thumos-210.",
    ),
    click.option(
        "--tiou", help="Thresholds, as 0.3:0.7:0.1 or 0.3,0.5. By default the protocol's."
    ),
    click.option(
        "--info",
        type=EXISTING,
        help="A table of frame rates, durations and subsets for what the annotations lack.",
    ),
    click.option("--exclude", type=EXISTING, help="Leave out the videos named in this file."),
    click.option(
        "--unknown-videos",
        type=click.Choice(["false_positive", "drop"]),
        help="What detections in videos without annotations are. By default the protocol's.",
    ),
    click.option(
        "--tie-order",
        type=click.Choice(["stable_first", "stable_last", "numpy"]),
        help="Which of equal scores comes first: the earlier in the file (by default), the later, "
        "or what numpy's unstable sort makes of them on this processor.",
    ),
)


def scoring_options(function: Function) -> Function:
    """Give a command the options of scoring, in their order."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def rules(
    name: str,
    tiou: str | None,
    unknown_videos: "UnknownVideos | None",
    tie_order: "TieOrder | None",
    exclude: Path | None,
) -> "Protocol":
    """The named protocol with what is wanted otherwise.

    Raises:
        UsageError: There is no such protocol, or the thresholds are none.
        UserError: The file of excluded videos is none.
    """
    from tad_distill.evaluate.protocols import PROTOCOLS, parse_tiou

    if name not in PROTOCOLS:
        about = "; ".join(f"{known.name} ({known.about})" for known in PROTOCOLS.values())
        raise UsageError(f"--protocol {name}: no such protocol; there are: {about}")
    protocol = PROTOCOLS[name]
    return replace(
        protocol,
        tiou=parse_tiou(tiou) if tiou else protocol.tiou,
        unknown_videos=unknown_videos or protocol.unknown_videos,
        tie_order=tie_order or protocol.tie_order,
        excluded=(*protocol.excluded, *(_names(exclude) if exclude else ())),
    )


def _names(path: Path) -> list[str]:
    """The videos that a file names, one a line or as a JSON list (or the keys of an object)."""
    from tad_distill.data.files import is_json, parse_json, read_text

    text = read_text(path)
    names = parse_json(path, text) if is_json(text) else text.split()
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: expected names of videos, found {names!r:.80}")
    return list(names)
