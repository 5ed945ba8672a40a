"""What all pictures share: colours, the style, the file they are written to."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tad_distill.console import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, which colour-blind readers tell apart, on white: a grey for the black, and a
# darker yellow.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A800")
HATCHES = ("", "////", "....", "xxxx", "----", "oo")
INK, FAINT = "#222222", "#E4E4E4"
WIDTH_IN = 9.0
# Height of a line with a bar in it.
LANE_IN = 0.3
# Longer names are shortened to so many characters.
MAX_NAME, MAX_TITLE = 30, 72
FORMATS = (".png", ".pdf", ".svg")
NUMBERS = re.compile(r"(\d+)")

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
    "figure.dpi": 150,
    # The same numbers give the same bytes.
    "svg.hashsalt": "tad-distill",
}


class Look(NamedTuple):
    """How a label is drawn. Hatching tells those of one colour apart."""

    colour: str
    hatch: str

    @classmethod
    def of(cls, place: int) -> "Look":
        """The look of the label at a place of the list."""
        hatch = HATCHES[place // len(COLOURS) % len(HATCHES)]
        return cls(COLOURS[place % len(COLOURS)], hatch)


def paler(colour: str, strength: float) -> str:
    """A colour mixed with white; unlike transparency it hides the lines behind it.

    >>> paler("#0072B2", 1.0), paler("#0072B2", 0.5)
    ('#0072b2', '#80b8d8')
    """
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - strength * (255 - part)):02x}" for part in parts)


def shortened(text: str, most: int) -> str:
    """A text of at most ``most`` characters: the middle is left out, as names differ at the ends.

    >>> shortened("camera_2024-01-03T10_11", 12), shortened("short", 12)
    ('camera…T10_11', 'short')
    """
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}…{text[-half:]}"


def in_reading_order(text: str) -> list[tuple[int, str]]:
    """A key to sort by: numbers within text count as numbers.

    >>> sorted(["take 10", "take 9"], key=in_reading_order)
    ['take 9', 'take 10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in NUMBERS.split(text)]


def check_format(path: Path) -> None:
    """Refuse a file that no picture can be written to, before any work is done.

    Raises:
        UsageError: The ending is none of ``FORMATS``.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: pictures are written as {', '.join(FORMATS)}")


@contextmanager
def figure(path: Path, height_in: float) -> "Iterator[tuple[Figure, Axes]]":
    """A figure that is written to ``path`` at the end.

    Raises:
        UsageError: The ending of ``path`` is none of ``FORMATS``.
    """
    check_format(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(WIDTH_IN, height_in), layout="constrained", facecolor="white")
        yield drawn, drawn.subplots()
        path.parent.mkdir(parents=True, exist_ok=True)
        without = {
            ".png": {"Software": None},
            ".pdf": {"CreationDate": None},
            ".svg": {"Date": None},
        }
        drawn.savefig(path, metadata=without[path.suffix.lower()])
