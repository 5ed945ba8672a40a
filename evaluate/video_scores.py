"""Labels for whole videos from another classifier, fused with the scores of segments.

On ActivityNet almost every video shows one action, and detectors there are asked *where* while a
classifier of whole videos says *which*: G-TAD multiplies the two scores for the two best labels
(gtad_postprocess.py), ActionFormer takes the root of the product (libs/utils/postprocessing.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.files import finite, parse_json, read_text

NUM_NAMED = 5  # A message names this many and counts the rest.

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class VideoScores:
    """How likely each label is in each video.

    Attributes:
        source: The file.
        scores: For each video of the file ``(K,)``, at least 0, in the order of the labels asked
            for.
    """

    source: Path
    scores: Mapping[str, Floats]

    def require(self, videos: Iterable[str]) -> None:
        """Refuse videos that the file does not name, with or without ``v_`` before the name.

        Raises:
            UserError: With how many there are, and some of them.
        """
        missing = [video for video in videos if self._find(video) is None]
        if missing:
            raise UserError(
                f"{self.source}: no label scores for {len(missing)} of the videos "
                f"({', '.join(missing[:NUM_NAMED])}{', ...' if len(missing) > NUM_NAMED else ''}); "
                f"it names {len(self.scores)} videos"
            )

    def of(self, video: str) -> Floats:
        """``(K,)`` scores of a video that the file names."""
        found = self._find(video)
        assert found is not None, video
        return found

    def _find(self, video: str) -> Floats | None:
        return self.scores.get(video, self.scores.get(video.removeprefix("v_")))


def read(path: Path, labels: Sequence[str]) -> VideoScores:
    """Read a file of label scores.

    Two forms are known: ``{"class": [label, ...], "results": {video: [score, ...]}}``, as the
    scores of CUHK for ActivityNet are handed on, and the form of ActivityNet's classification task,
    ``{"results": {video: [{"label": ..., "score": ...}, ...]}}``, in which a label that a video
    does not list has score 0. Labels that are not asked for are left out.

    Args:
        path: The file, also compressed (``.gz``).
        labels: The labels of the detector; their order is that of the scores.

    Raises:
        UserError: Another form, a label that the file does not know, or a score that is no number
            of at least 0.
    """
    document = parse_json(path, read_text(path))
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict) or not results:
        raise UserError(f'{path}: expected label scores, JSON with "results" by video')
    listed = [isinstance(scores, list) for scores in results.values()]
    if not all(listed):
        video = list(results)[listed.index(False)]
        raise UserError(f"{path}: {video}: expected a list of scores, found {results[video]!r:.60}")
    by_entry = any(isinstance(entry, dict) for scores in results.values() for entry in scores)
    rows = _of_entries(path, results) if by_entry else _of_rows(path, results, document)
    known = {label for row in rows.values() for label in row}
    unknown = [label for label in labels if label not in known]
    # A file of entries may well list no video with a label; but it has to know some of them.
    if unknown and (not by_entry or len(unknown) == len(labels)):
        raise UserError(
            f"{path}: no scores for {len(unknown)} of {len(labels)} labels "
            f"({', '.join(unknown[:NUM_NAMED])}); it knows {', '.join(sorted(known)[:NUM_NAMED])} "
            f"and {max(0, len(known) - NUM_NAMED)} more"
        )
    console.log(
        "video_scores",
        file=path,
        num_videos=len(rows),
        num_labels=len(labels) - len(unknown),
        never_listed=len(unknown),
        left_out=len(known.difference(labels)),
    )
    scores = {
        video: np.array([row.get(label, 0.0) for label in labels]) for video, row in rows.items()
    }
    return VideoScores(path, scores)


def fuse(
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    of_video: Floats,
    *,
    top_k: int,
    fusion: Literal["sqrt", "product"],
    class_agnostic: bool,
) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Say of the detections of one video which of its best labels they show.

    Args:
        scores: ``(N,)`` of the detections.
        labels: ``(N,)`` numbers of their labels; not looked at if ``class_agnostic``.
        of_video: ``(K,)`` scores of the labels in the video.
        top_k: So many of the best labels count; a label of score 0 never does.
        fusion: The product of both scores, or its root.
        class_agnostic: Each detection is said once for each of these labels; otherwise those of
            other labels are dropped.

    Returns:
        ``(M,)`` which detection, its score and its label, by falling score; equal ones by label,
        then in the order given.
    """
    best = np.argsort(-of_video, kind="stable")[:top_k]
    best = best[of_video[best] > 0]
    if class_agnostic:
        index = np.tile(np.arange(len(scores)), len(best))
        numbers = np.repeat(best, len(scores))
    else:
        index = np.flatnonzero(np.isin(labels, best))
        numbers = np.asarray(labels, dtype=np.int64)[index]
    fused = np.asarray(scores, dtype=np.float64)[index] * of_video[numbers]
    if fusion == "sqrt":
        fused = np.sqrt(fused)
    order = np.lexsort((np.arange(len(index)), numbers, -fused))
    return index[order], fused[order], numbers[order]


def _of_rows(
    path: Path, results: Mapping[str, list[Any]], document: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    names = document.get("class")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f'{path}: "results" hold plain numbers, and nothing says which labels they are of; '
            'add "class", the list of labels in their order'
        )
    rows = {}
    for video, scores in results.items():
        if len(scores) != len(names):
            raise UserError(
                f'{path}: {video}: expected {len(names)} scores, as "class" has labels, '
                f"found {len(scores)}"
            )
        rows[video] = {
            name: _score(score, f"{path}: {video}: {name}")
            for name, score in zip(names, scores, strict=True)
        }
    return rows


def _of_entries(path: Path, results: Mapping[str, list[Any]]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for video, entries in results.items():
        row = rows.setdefault(video, {})
        for i, entry in enumerate(entries):
            where = f"{path}: {video}: entry {i}"
            if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
                raise UserError(f'{where}: expected "label" and "score", found {entry!r:.60}')
            if "segment" in entry:
                raise UserError(
                    f"{where}: has a segment: these are detections, not scores of whole videos"
                )
            score = _score(entry.get("score"), where)
            row[entry["label"]] = max(score, row.get(entry["label"], 0.0))
    return rows


def _score(value: Any, where: str) -> float:
    score = finite(value, where, "score")
    if score < 0:
        raise UserError(f"{where}: expected a score of at least 0, found {score}")
    return score
