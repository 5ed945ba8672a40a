"""Windows cover a video, and what is found in several of them is told once."""

import numpy as np
import pytest
import torch

from tad_distill.distill.config import PredictConfig
from tad_distill.distill.heads import Candidates
from tad_distill.distill.windows import merge, windows

Row = tuple[float, float, float, int]  # start, end, score, label


def candidates(*rows: Row) -> Candidates:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    return Candidates(table[:, :2], table[:, 2], table[:, 3].long())


def merged(parts: list[list[Row]], cut: list[tuple[int, int]], config: PredictConfig) -> list[Row]:
    found = merge([candidates(*part) for part in parts], cut, config)
    rows = zip(found.segments.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [(start, end, round(score, 4), label) for (start, end), score, label in rows]


@pytest.mark.parametrize(
    ("num_steps", "window", "overlap"), [(1, 4, 2), (4, 4, 2), (5, 4, 0), (23, 8, 3)]
)
def test_windows_cover_the_video_and_overlap_enough(
    num_steps: int, window: int, overlap: int
) -> None:
    cut = windows(num_steps, PredictConfig(window=window, overlap=overlap))
    assert cut[0][0] == 0 and cut[-1][1] == num_steps
    assert all(stop - start == min(window, num_steps) for start, stop in cut)
    assert all(
        before[1] - after[0] >= overlap for before, after in zip(cut[:-1], cut[1:], strict=True)
    )


@pytest.mark.parametrize(("window", "overlap"), [(4, 4), (16384, -1), (0, 2048)])
def test_windows_that_do_not_advance_are_refused(window: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap must be in"):
        PredictConfig(window=window, overlap=overlap)


def test_every_centre_counts_in_one_window() -> None:
    config = PredictConfig(window=8, overlap=3)
    cut = windows(23, config)
    rows: list[Row] = [(at - 1.0, at + 1.0, 0.5, 0) for at in np.arange(-2, 26, 0.5).tolist()]
    assert merged([rows] * len(cut), cut, config) == rows


def test_all_can_be_kept() -> None:
    rows: list[Row] = [(1.0, 5.0, 0.5, 0)]
    config = PredictConfig(window=8, overlap=4, merge="all")
    assert merged([rows, rows], [(0, 8), (4, 12)], config) == rows * 2


def kept_by_loop(rows: list[Row], cut: list[tuple[int, int]], most: float) -> list[Row]:
    """The rule of the official code, one candidate at a time, each told once."""
    kept: set[int] = set()
    touching: set[int] = set()
    for before, after in zip(cut[:-1], cut[1:], strict=True):
        first, last = after[0] - 0.5, before[1] - 0.5
        inside = [i for i, r in enumerate(rows) if min(r[1], last) - max(r[0], first) > 0]
        touching |= set(inside)
        chosen: list[int] = []
        for i in sorted(inside, key=lambda i: -rows[i][2]):
            start, end, _, label = rows[i]
            for j in chosen:
                shared = min(end, rows[j][1]) - max(start, rows[j][0])
                union = end - start + rows[j][1] - rows[j][0] - shared
                if label == rows[j][3] and shared / union > most:
                    break
            else:
                chosen.append(i)
        kept |= set(chosen)
    return [row for i, row in enumerate(rows) if i in kept or i not in touching]


def test_suppression_in_overlaps_equals_a_loop() -> None:
    generator = np.random.default_rng(0)
    config = PredictConfig(window=32, overlap=12, merge="suppress")
    cut = windows(90, config)
    parts: list[list[Row]] = []
    for start, stop in cut:
        centres = generator.uniform(start, stop, 40).round(2)
        halves = generator.uniform(0.5, 12, 40).round(2)
        scores = generator.permutation(40) / 100 + 0.001 * len(parts)
        parts.append(
            [
                (float(np.float32(c - h)), float(np.float32(c + h)), round(float(s), 4), i % 2)
                for i, (c, h, s) in enumerate(zip(centres, halves, scores, strict=True))
            ]
        )
    rows = [row for part in parts for row in part]
    expected = kept_by_loop(rows, cut, 0.4)
    found = merged(parts, cut, config)
    assert found == expected
    assert 0 < len(found) < len(rows)


@pytest.mark.parametrize("rule", ["centres", "suppress", "all"])
def test_nothing_found_stays_nothing(rule: str) -> None:
    config = PredictConfig(window=8, overlap=4, merge=rule)  # type: ignore[arg-type]
    assert merged([[], []], [(0, 8), (4, 12)], config) == []
    assert merged([[]], [(0, 3)], config) == []
