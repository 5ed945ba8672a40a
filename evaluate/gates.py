"""Can this data show an effect of a motion teacher at all? Gates to check before distilling.

Probes of the RGB and the teacher features (G1, G4) and, where detections are at hand, the mAP of
RGB only, teacher and two-stream on held-out videos (G2, G3). If a gate fails, change the data or
the backbone; a student cannot be tuned past it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tad_distill.console import UserError, log
from tad_distill.evaluate.probes import (
    Floats,
    auc,
    choose_penalty,
    class_accuracy,
    inside_any,
    pool_segments,
    ridge,
)

if TYPE_CHECKING:
    from tad_distill.data.annotations import AnnotationSet
    from tad_distill.data.store import Stream

TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Accuracy:
    """One label probe: fractions of 1.

    Attributes:
        mean: From the mean feature of each segment.
        mean_std: From the mean and the standard deviation over time.
        chance: The share of the most frequent class among the scored segments.
    """

    mean: float
    mean_std: float
    chance: float


@dataclass(frozen=True)
class Probes:
    """What one stream's features know.

    Attributes:
        stream: Its name.
        num_train: Segments that the probes were trained on.
        num_scored: Segments that they were scored on.
        accuracy: By task: ``object`` and ``motion``, or ``label``.
        action_auc: Area under the ROC curve of single features, action against background.
    """

    stream: str
    num_train: int
    num_scored: int
    accuracy: dict[str, Accuracy]
    action_auc: float


@dataclass(frozen=True)
class Gate:
    """One condition, in points (per cent).

    Attributes:
        name: G1 ... G4, or the part of one.
        what: What is measured.
        value: The measured value; None where something it needs was not given.
        bar: The condition, in words.
        passed: Whether it holds; None where not measured.
        binding: False for what is reported beside the gates.
    """

    name: str
    what: str
    value: float | None
    bar: str
    passed: bool | None
    binding: bool = True


def label_tasks(labels: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The probes that a set of labels allows: task name -> label -> class.

    Labels that are all two words, an object's and a motion's, give the tasks ``object`` and
    ``motion``; others the single task ``label``.

    >>> label_tasks(("red spin", "red sway", "blue spin"))["motion"]["red sway"]
    'sway'
    >>> list(label_tasks(("HighJump", "LongJump")))
    ['label']
    """
    words = {label: label.split() for label in labels}
    if all(len(pair) == 2 for pair in words.values()):
        tasks = {
            name: {label: pair[i] for label, pair in words.items()}
            for i, name in enumerate(("object", "motion"))
        }
        if all(len(set(classes.values())) > 1 for classes in tasks.values()):
            return tasks
    return {"label": {label: label for label in labels}}


def probe_stream(stream: "Stream", train: "AnnotationSet", scored: "AnnotationSet") -> Probes:
    """Train the probes on one subset's features and score them on another's.

    Raises:
        UserError: The stream holds maps instead of pooled features, or a subset none of whose
            videos it holds, or no annotation.
    """
    if len(stream.spec.shape) != 1:
        raise UserError(
            f"stream {stream.name}: holds maps of shape {stream.spec.shape}; "
            "a probe needs pooled features"
        )
    train_feats, train_labels, train_steps, train_inside = _gather(stream, train)
    feats, labels, steps, inside = _gather(stream, scored)
    half = stream.spec.shape[0]
    accuracy = {}
    for task, classes in label_tasks(train.labels).items():
        known = np.array([classes[label] for label in train_labels])
        wanted = np.array([classes[label] for label in labels])
        mean, mean_std = (
            class_accuracy((train_feats[:, :width], known), (feats[:, :width], wanted))
            for width in (half, 2 * half)
        )
        counts = np.unique(wanted, return_counts=True)[1]
        accuracy[task] = Accuracy(mean, mean_std, chance=float(counts.max() / counts.sum()))
    targets = train_inside[:, None].astype(np.float64)
    action = ridge(train_steps, targets, choose_penalty(train_steps, targets))
    return Probes(
        stream=stream.name,
        num_train=len(train_labels),
        num_scored=len(labels),
        accuracy=accuracy,
        action_auc=auc(action(steps)[:, 0], inside),
    )


def _gather(
    stream: "Stream", annotations: "AnnotationSet"
) -> tuple[Floats, list[str], Floats, np.ndarray]:
    """Pooled segments with their labels, and all single features with "inside a segment"."""
    stored = set(stream.videos)
    pooled, labels, steps, inside = [], [], [], []
    for name, video in annotations.videos.items():
        if name not in stored:
            continue
        feats = stream.read(name)
        if not len(feats):
            continue
        times = np.array([[a.start_s, a.end_s] for a in video.annotations]).reshape(-1, 2)
        segments = stream.timeline(name).to_grid(times)
        pooled.append(pool_segments(feats, segments))
        labels += [annotation.label for annotation in video.annotations]
        steps.append(feats.astype(np.float64))
        inside.append(inside_any(len(feats), segments))
    subset = "/".join(sorted({video.subset for video in annotations.videos.values()}))
    if not steps:
        raise UserError(
            f"stream {stream.name}: holds none of the {len(annotations.videos)} videos of subset "
            f"{subset!r}; extract them into the store first"
        )
    if not labels:
        raise UserError(f"{annotations.source}: subset {subset!r} has no annotation to probe")
    if len(steps) < len(annotations.videos):
        missing = len(annotations.videos) - len(steps)
        log("videos_without_features", stream=stream.name, subset=subset, num_videos=missing)
    return np.concatenate(pooled), labels, np.concatenate(steps), np.concatenate(inside)


def check(rgb: Probes, teacher: Probes, mean_ap: Mapping[str, float]) -> list[Gate]:
    """Hold the measured values against the bars.

    Args:
        rgb: Probes of the RGB features.
        teacher: Probes of the teacher's features.
        mean_ap: Average mAP in points by ``rgb``, ``teacher``, ``two_stream``; those at hand.
    """

    def accuracy(probes: Probes, task: str) -> float | None:
        found = probes.accuracy.get(task)
        return 100 * found.mean if found else None

    rgb_motion, teacher_motion = accuracy(rgb, "motion"), accuracy(teacher, "motion")
    rgb_object, teacher_object = accuracy(rgb, "object"), accuracy(teacher, "object")
    only, taught, both = (mean_ap.get(name) for name in ("rgb", "teacher", "two_stream"))
    best = None if only is None or taught is None else max(only, taught)
    return [
        _gate("G1", "motion probe, teacher - RGB", _less(teacher_motion, rgb_motion), low=5),
        _gate("G1 band", "motion probe, RGB", rgb_motion, low=50, high=75, binding=False),
        _gate("G2", "mAP, RGB only", only, low=30),
        _gate("G2 gap", "mAP, two-stream - RGB", _less(both, only), low=5, high=15, binding=False),
        _gate("G3", "mAP, two-stream - max(RGB, teacher)", _less(both, best), low=3),
        _gate("G4", "object probe, RGB - teacher", _less(rgb_object, teacher_object), above=0),
    ]


def _less(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _gate(
    name: str,
    what: str,
    value: float | None,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    binding: bool = True,
) -> Gate:
    if above is not None:
        bar = f"> {above:g}"
    else:
        bar = f">= {low:g}" if high is None else f"{low:g} to {high:g}"
    passed = None
    if value is not None:
        passed = (
            (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
        )
    return Gate(name, what, value, bar, passed, binding)


def table_rows(gates: list[Gate]) -> list[tuple[str, str, str, str, str]]:
    """The gates as cells: name, what, value, bar, outcome."""
    rows = []
    for gate in gates:
        value = "-" if gate.value is None else f"{gate.value:.1f}"
        if gate.passed is None:
            outcome = "not measured"
        elif gate.binding:
            outcome = "pass" if gate.passed else "FAIL"
        else:
            outcome = "inside" if gate.passed else "outside"
        rows.append((gate.name, gate.what, value, gate.bar, outcome))
    return rows


def as_dict(
    rgb: Probes, teacher: Probes, mean_ap: Mapping[str, float], gates: list[Gate]
) -> dict[str, Any]:
    """Everything measured, for a JSON file; accuracies are fractions of 1, gates in points."""
    return {
        "probes": {
            name: asdict(probes) | {"action_auc": _or_none(probes.action_auc)}
            for name, probes in (("rgb", rgb), ("teacher", teacher))
        },
        "average_mAP_points": dict(mean_ap),
        "gates": [asdict(gate) for gate in gates],
    }


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
