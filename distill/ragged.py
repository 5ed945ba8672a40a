"""Videos of a batch that differ in length, computed apart where the padding would cost more.

A batch is padded to its longest video. On a GPU that is cheap; on a CPU, where a step costs what it
computes, it is up to half of the work. Rows of about one length then make a batch of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# What one more group costs, in steps of a network of this width: a fixed number, and the calls
# themselves, which weigh more the less a step computes. Measured on one core with ActionFormer:
# about 50 ms at width 512, where a step takes 1 ms; doubled, so that a split surely pays.
FIXED_STEPS, CALL_STEPS = 64, 1e7


@dataclass(frozen=True)
class Group:
    """Rows of a batch that are computed together.

    Attributes:
        rows: Which.
        length: Steps that hold all that is real in them.
    """

    rows: tuple[int, ...]
    length: int


def whole(mask: Tensor) -> Group:
    """All rows of a ``(B, T)`` batch."""
    return Group(tuple(range(len(mask))), mask.shape[1])


def groups(mask: Tensor, width: int) -> list[Group]:
    """How to divide a batch; one group where that is no slower, and on any device but the CPU.

    Args:
        mask: ``(B, T)`` bool, true where real.
        width: Of the network: channels of its features.

    Returns:
        Groups that hold every row once.
    """
    num_videos, num_steps = mask.shape
    if mask.device.type != "cpu" or torch.compiler.is_compiling() or not num_steps:
        return [whole(mask)]
    steps = torch.arange(1, num_steps + 1)
    lengths: list[int] = (mask * steps).amax(1).tolist()
    overhead = FIXED_STEPS + CALL_STEPS / width**2
    if num_videos * num_steps - sum(lengths) <= overhead:
        return [whole(mask)]
    return cheapest(lengths, overhead)


def cheapest(lengths: Sequence[int], overhead: float) -> list[Group]:
    """The division of these lengths with the fewest steps, each group's overhead among them.

    >>> cheapest([9, 2, 8], overhead=3)
    [Group(rows=(0, 2), length=9), Group(rows=(1,), length=2)]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    # best[k]: what the k longest cost, and where their last group begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        best.append(
            min(
                (best[first][0] + overhead + (end - first) * lengths[order[first]], first)
                for first in range(end)
            )
        )
    found = []
    end = len(order)
    while end:
        first = best[end][1]
        found.append(Group(tuple(sorted(order[first:end])), lengths[order[first]]))
        end = first
    return found[::-1]


def take(values: Tensor, group: Group) -> Tensor:
    """The group's part of ``(B, T, ...)``, a view if its rows are neighbours."""
    first, last = group.rows[0], group.rows[-1] + 1
    if last - first == len(group.rows):
        return values[first:last, : group.length]
    return values[list(group.rows), : group.length]


def join(parts: Sequence[Tensor], divided: Sequence[Group], length: int) -> Tensor:
    """What was computed for groups as one batch.

    Args:
        parts: For each group ``(its rows, at most length, ...)``.
        divided: The groups.
        length: T.

    Returns:
        ``(B, T, ...)``, zero beyond what a group computed.
    """
    if len(parts) == 1 and parts[0].shape[1] == length:
        return parts[0]
    around = [(0, 0) * (part.ndim - 2) for part in parts]
    padded = [
        F.pad(part, (*sides, 0, length - part.shape[1]))
        for part, sides in zip(parts, around, strict=True)
    ]
    order = [row for group in divided for row in group.rows]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(padded)[inverse]
