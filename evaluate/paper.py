"""The paper's Tables 2 to 6: which run belongs into which row, and what the paper reports there.

Lee et al., "Decomposed Cross-modal Distillation for RGB-based Temporal Action Detection", CVPR
2023. Its numbers are mAP in percent, trained end to end from Kinetics weights, and never mixed with
ours; what is not at hand is left out and shown as a dash. A row is found by its title, so a run
whose title is none of the paper's makes a row of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

THUMOS = (0.3, 0.4, 0.5, 0.6, 0.7)
ACTIVITYNET = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)

# What stands above every number of the paper.
HEADING = "paper, end to end, Kinetics weights"

# The lessons of the paper, Eq. 4 and 5.
LESSONS = ("feature", "response")

NAMES = {
    "tsm18": "TSM18",
    "tsm50": "TSM50",
    "i3d": "I3D",
    "slowfast50_4x16": "SlowFast50",
    "slowfast50_8x8": "SlowFast50",
    "actionformer": "ActionFormer",
    "gtad": "G-TAD",
    "tadtr": "TadTR",
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "difference_attention": "difference attention",
    "local": "local attention",
}

Kind = Literal["rgb", "motion", "two_stream", "control", "conventional", "decomposed"]


@dataclass(frozen=True)
class Design:
    """What a run is, as its resolved settings say; names as the paper writes them.

    Attributes:
        kind: RGB alone, motion alone, both streams concatenated, the student without a teacher,
            the undecomposed student, the student.
        backbone: Of the first RGB stream, or of the only stream.
        head: Detection head.
        fusion: Of the branches; empty for one branch.
        motion: What the teacher looks at (``gradient`` or ``flow``), or a stream beside RGB does,
            or the only stream.
        lessons: Kinds of transfers, sorted.
        copy: Name of the copy of the last stage that feeds a branch; empty for none.
    """

    kind: Kind
    backbone: str
    head: str
    fusion: str = ""
    motion: str = ""
    lessons: tuple[str, ...] = ()
    copy: str = ""

    @property
    def deviation(self) -> str:
        """What sets the run apart from what the paper describes, to be added to a title."""
        lessons = f", lessons {'+'.join(self.lessons)}" if self.lessons else ""
        return (f", copy {self.copy}" if self.copy else "") + (
            lessons if self.lessons != LESSONS else ""
        )


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        number: As in the paper.
        about: What it compares.
        setting: What the paper's numbers stand on, beside ``HEADING``.
        tiou: The thresholds that its average is over.
        shown: Those that have a column.
        rows: Title -> the paper's mAP by threshold, and the average last; ``None`` for a dash.
        title: The row of a run; ``None`` if the table has none for it.
    """

    number: str
    about: str
    setting: str
    tiou: tuple[float, ...]
    shown: tuple[float, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    title: Callable[[Design], str | None]


def ablation(run: Design) -> str | None:
    """The row of Table 2. The student without a teacher and the streams alone are rows of ours."""
    if run.kind == "decomposed" and run.fusion not in ("concat", NAMES["local"]):
        return None
    title = {
        "rgb": "RGB only",
        "motion": f"{run.motion} only",
        "two_stream": f"two streams, RGB and {run.motion}",
        "control": f"decomposed, {run.fusion}, no teacher",
        "conventional": f"conventional distillation, {run.motion} teacher",
        "decomposed": f"decomposed, {run.fusion}, {run.motion} teacher",
    }[run.kind]
    return title + run.deviation


def fusions(run: Design) -> str | None:
    """The row of Table 3."""
    if run.kind != "decomposed":
        return None
    teacher = "" if run.motion == "gradient" else f", {run.motion} teacher"
    return run.fusion + teacher + run.deviation


def backbones(run: Design) -> str | None:
    """The row of Table 4."""
    return _lesson(run.backbone, run) if run.head == NAMES["actionformer"] else None


def heads(run: Design) -> str | None:
    """The row of Table 5."""
    return _lesson(run.head, run)


def _lesson(name: str, run: Design) -> str | None:
    """A row of the student with local attention, or of RGB alone."""
    if run.kind == "rgb":
        return f"{name}, RGB only{run.deviation}"
    if run.kind == "decomposed" and run.fusion == NAMES["local"]:
        return f"{name}, {run.motion} teacher{run.deviation}"
    return None


def comparison(run: Design) -> str | None:
    """The row of Table 6 for THUMOS'14."""
    if run.kind == "two_stream":
        return f"{run.head}, RGB and {run.motion}{run.deviation}"
    if run.kind == "decomposed" and run.fusion == NAMES["local"]:
        teacher = f"{run.motion} teacher"
        return f"{run.head}, student, {run.backbone}, {teacher}{run.deviation}"
    return None


def comparison_activitynet(run: Design) -> str | None:
    """The row of Table 6 for ActivityNet, whose teacher is not at hand."""
    if run.kind == "decomposed" and run.fusion == NAMES["local"]:
        return f"{run.head}, student, {run.backbone}{run.deviation}"
    return None


def _average(value: float) -> tuple[float | None, ...]:
    """A row of which only the average over the thresholds is shown."""
    return (value,)


def _by_lesson(averages: Mapping[str, tuple[float, float, float]]) -> dict[str, tuple[float, ...]]:
    """Rows of RGB only, gradient teacher and flow teacher."""
    lessons = ("RGB only", "gradient teacher", "flow teacher")
    return {
        f"{name}, {lesson}": (value,)
        for name, values in averages.items()
        for lesson, value in zip(lessons, values, strict=True)
    }


DASHES = (None,) * len(THUMOS)
TABLES = (
    Table(
        "2",
        "what each part adds",
        "THUMOS'14, TSM18, ActionFormer",
        THUMOS,
        THUMOS,
        {
            "RGB only": (62.3, 55.2, 46.2, 33.8, 20.4, 43.6),
            "conventional distillation, gradient teacher": (*DASHES, 44.5),
            "decomposed, concat, gradient teacher": (*DASHES, 45.2),
            "decomposed, local attention, gradient teacher": (*DASHES, 46.6),
            "decomposed, local attention, flow teacher": (*DASHES, 48.2),
        },
        ablation,
    ),
    Table(
        "3",
        "fusions",
        "THUMOS'14, TSM18, ActionFormer, gradient teacher",
        THUMOS,
        (),
        {
            "concat": _average(45.2),
            "sum": _average(45.1),
            "self-attention": _average(44.6),
            "cross-attention": _average(44.2),
            "difference attention": _average(43.3),
            "local attention": _average(46.6),
        },
        fusions,
    ),
    Table(
        "4",
        "backbones",
        "THUMOS'14, ActionFormer",
        THUMOS,
        (),
        _by_lesson(
            {
                "TSM18": (43.6, 46.6, 48.2),
                "TSM50": (47.5, 50.3, 52.3),
                "I3D": (37.9, 41.3, 42.6),
                "SlowFast50": (53.8, 55.0, 56.8),
            }
        ),
        backbones,
    ),
    Table(
        "5",
        "heads",
        "THUMOS'14, TSM18",
        THUMOS,
        (),
        _by_lesson(
            {
                "G-TAD": (35.1, 37.6, 38.8),
                "ActionFormer": (43.6, 46.6, 48.2),
                "TadTR": (46.0, 47.4, 48.7),
            }
        ),
        heads,
    ),
    Table(
        "6a",
        "comparison with two streams",
        "THUMOS'14",
        THUMOS,
        THUMOS,
        {
            "ActionFormer, RGB and flow": (*DASHES, 66.8),
            "ActionFormer, student, SlowFast50, flow teacher": (*DASHES, 56.8),
        },
        comparison,
    ),
    Table(
        "6b",
        "comparison on ActivityNet",
        "ActivityNet-1.3",
        ACTIVITYNET,
        (0.5, 0.75, 0.95),
        {"ActionFormer, student, SlowFast50": (53.73, 35.87, 8.61, 35.58)},
        comparison_activitynet,
    ),
)
