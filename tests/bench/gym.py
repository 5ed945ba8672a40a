"""Untrimmed sequences of real gym clips with I3D features: a student of RGB, a teacher of flow.

The clips (505, 21 classes) come trimmed. As the data's own notes ask, they are split by contiguous
clip number within a class, because neighbouring numbers may come from one source video; then clips
of one split are joined, 14 to a sequence: 14 classes are actions, 7 are background.
"""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tad_distill.data import annotations
from tad_distill.data.annotations import Annotation, AnnotationSet, Video
from tad_distill.data.store import Store, StreamSpec

CLIPS_PER_SEQUENCE = 14
NUM_FOLDS = 5
NUM_BACKGROUND = 7
FPS, CLIP_FRAMES = 30.0, 64.0
ROUNDS = {"training": 4, "validation": 2, "test": 2}


def split_clips(names: list[str], fold: int) -> dict[str, list[int]]:
    """Clips of each split: of every class, chunk ``fold`` is test, the next one validation."""
    by_class: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        by_class[re.sub(r"_\d+$", "", name)].append(index)
    splits: dict[str, list[int]] = {"training": [], "validation": [], "test": []}
    for indices in by_class.values():
        indices.sort(key=lambda i: int(names[i].rsplit("_", 1)[1]))
        for number, chunk in enumerate(np.array_split(np.array(indices), NUM_FOLDS)):
            role = {0: "test", 1: "validation"}.get((number - fold) % NUM_FOLDS, "training")
            splits[role] += [int(i) for i in chunk]
    return splits


def build(source: Path, out: Path, fold: int, seed: int = 0) -> tuple[Path, Path]:
    """Write the store (streams ``i3d:rgb`` and ``i3d:flow``) and the annotations of one fold."""
    data = np.load(source)
    names = [str(name) for name in data["names"]]
    labels = [str(label) for label in data["labels"]]
    counts = {label: labels.count(label) for label in set(labels)}
    # The most frequent classes are the actions: every fold then has some of each to learn from.
    actions = sorted(counts, key=lambda label: (-counts[label], label))[:-NUM_BACKGROUND]
    store = Store.create(out / "features")
    writers = {kind: store.create_stream(spec_of(kind)).writer("gym") for kind in ("rgb", "flow")}
    random = np.random.default_rng([seed, fold])
    videos: dict[str, Video] = {}
    for subset, clips in split_clips(names, fold).items():
        for number, sequence in enumerate(sequences(clips, ROUNDS[subset], random)):
            name = f"{subset}_{number:03d}"
            rows, found = join(sequence, data["offsets"], [labels[i] for i in sequence], actions)
            duration_s = len(rows) * CLIP_FRAMES / FPS
            videos[name] = Video(name, subset, duration_s, FPS, tuple(found))
            for kind, writer in writers.items():
                writer.commit(
                    name,
                    data[kind][rows],
                    fps=FPS,
                    duration_s=duration_s,
                    source_hash=f"{seed}-{fold}-{name}",
                )
    for writer in writers.values():
        writer.seal()
    path = out / "annotations.json"
    annotations.write(path, AnnotationSet(videos, tuple(sorted(actions)), str(path), {}, {}))
    return out / "features", path


def spec_of(kind: str) -> StreamSpec:
    """One 1024-wide feature per 64 frames."""
    return StreamSpec(
        stream=f"i3d:{kind}",
        backbone="i3d",
        modality=kind,
        weights={"layout": "not stated by the source"},
        fps=FPS,
        clip_frames=CLIP_FRAMES,
        stride_frames=CLIP_FRAMES,
        offset_frames=CLIP_FRAMES / 2,
        shape=(1024,),
        dtype="float16",
        details={"flow": "RAFT", "joined": f"{CLIPS_PER_SEQUENCE} clips a sequence"},
        software={},
    )


def sequences(clips: list[int], rounds: int, random: np.random.Generator) -> list[list[int]]:
    """Every clip once per round, in random order, cut into sequences."""
    found = []
    for _ in range(rounds):
        order = [int(i) for i in random.permutation(clips)]
        last = len(order) - CLIPS_PER_SEQUENCE + 1
        found += [order[i : i + CLIPS_PER_SEQUENCE] for i in range(0, last, CLIPS_PER_SEQUENCE)]
    return found


def join(
    sequence: list[int], offsets: NDArray[np.integer], labels: list[str], actions: list[str]
) -> tuple[list[int], list[Annotation]]:
    """The feature rows of a sequence, and its actions in seconds."""
    rows: list[int] = []
    found = []
    for clip, label in zip(sequence, labels, strict=True):
        start = len(rows)
        rows += range(int(offsets[clip]), int(offsets[clip + 1]))
        if label in actions:
            step_s = CLIP_FRAMES / FPS
            found.append(Annotation(label, start * step_s, len(rows) * step_s))
    return rows, found
