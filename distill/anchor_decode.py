"""From the scores of all anchors to candidates."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tad_distill.distill.anchors import lengths
from tad_distill.distill.heads import Candidates


def peaks(scores: Tensor, mask: Tensor, at_end: bool) -> Tensor:
    """Where boundaries are likely, by the rule of BMN that G-TAD takes for ActivityNet.

    Steps that see more of a boundary than both their neighbours, or more than half of the video's
    maximum; of the video's first and last step exactly one: the first can be a start, the last an
    end.

    Args:
        scores: ``(B, T)`` in [0, 1].
        mask: ``(B, T)`` bool, true where real.
        at_end: Whether ends are meant, or starts.

    Returns:
        ``(B, T)`` bool.
    """
    scores = scores.masked_fill(~mask, 0.0)
    before, after = F.pad(scores, (1, 0))[:, :-1], F.pad(scores, (0, 1))[:, 1:]
    likely = (scores > before) & (scores > after)
    likely |= scores > 0.5 * scores.amax(1, keepdim=True)
    steps, last = torch.arange(mask.shape[1], device=mask.device), lengths(mask).unsqueeze(1) - 1
    inner = (steps > 0) & (steps < last)
    return (likely & inner) | (steps == (last if at_end else 0))


def at_steps(scores: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
    """``(B, T)`` scores at ``(N,)`` int64 steps, ``(B, N)``; beyond a video's end, its last one."""
    last = (lengths(mask) - 1).clamp(min=0).unsqueeze(1)
    return scores.gather(1, torch.minimum(steps, last))


def best(
    scores: Tensor, segments: Tensor, allowed: Tensor, *, min_score: float, top_k: int
) -> list[Candidates]:
    """The best candidates of each video, by falling score; equal ones by anchor, then by label.

    Args:
        scores: ``(B, N, K)`` in (0, 1).
        segments: ``(N, 2)`` of the anchors.
        allowed: ``(B, N)`` bool.
        min_score: Candidates have a higher score.
        top_k: At most so many per video.
    """
    num_labels = scores.shape[2]
    decoded = []
    for of_video, may in zip(scores, allowed, strict=True):
        flat = of_video.masked_fill(~may.unsqueeze(1), -1.0).flatten()
        chosen = (flat > min_score).nonzero().squeeze(1)
        order = flat[chosen].argsort(descending=True, stable=True)[:top_k]
        chosen = chosen[order]
        found = (segments[chosen // num_labels], flat[chosen], chosen % num_labels)
        decoded.append(Candidates(*(part.cpu() for part in found)))
    return decoded
