"""What annotations are like: how long, how much of their video, how many in it, how close.

The first three are DETAD's (Alwassel et al., ECCV 2018, section 3) with its bins, those for
ActivityNet and those for THUMOS'14. DETAD's context size, context distance and agreement need
further annotators; in their stead stands what the annotations themselves can tell, the gap to the
nearest other annotation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from tad_distill.evaluate.matching import Floats, Ints

if TYPE_CHECKING:
    import pandas as pd

BinSet = Literal["auto", "activitynet", "thumos", "quantiles"]

INF = float("inf")
SIZES = ("XS", "S", "M", "L", "XL")

# Upper edges; a bin holds what is above the edge before and at most its own.
ACTIVITYNET: dict[str, tuple[float, ...]] = {
    "coverage": (0.2, 0.4, 0.6, 0.8, INF),
    "length": (30, 60, 120, 180, INF),
    "annotations": (1, 4, 8, INF),
}
THUMOS: dict[str, tuple[float, ...]] = {
    "coverage": (0.02, 0.04, 0.06, 0.08, INF),
    "length": (3, 6, 12, 18, INF),
    "annotations": (1, 40, 80, INF),
}
GAPS = {"overlapping": 0.0, "near": 1.0, "mid": 4.0, "far": 1e300, "alone": INF}

# Fixed bins of which one holds more than this share of the annotations tell little.
MAX_SHARE = 0.8

ABOUT = {
    "coverage": "share of the video that the annotation covers",
    "length": "length of the annotation in seconds",
    "annotations": "annotations in the same video, of any label",
    "gap": "time to the nearest other annotation of the video, in lengths of the annotation itself",
}


@dataclass(frozen=True)
class Characteristic:
    """The annotations sorted into bins.

    Attributes:
        name: ``coverage``, ``length``, ``annotations`` or ``gap``.
        about: What it measures.
        bins: Names of the bins, those without annotations too.
        ranges: What each bin holds, in words.
        bin_of: ``(M,)`` bin of each annotation, -1 where unknown: its video states no duration.
        edges: Whose bins these are: ``activitynet``, ``thumos``, ``quantiles`` or ``ours``.
    """

    name: str
    about: str
    bins: tuple[str, ...]
    ranges: tuple[str, ...]
    bin_of: Ints
    edges: str


def describe(
    annotations: "pd.DataFrame", durations_s: Mapping[str, float | None], bins: BinSet = "auto"
) -> list[Characteristic]:
    """Sort annotations into the bins of every characteristic.

    Args:
        annotations: Columns video, label, start_s, end_s.
        durations_s: Length of each video, where it is known.
        bins: Whose bins. ``auto`` takes ActivityNet's, and quantiles of the data for those
            characteristics of which ActivityNet's bins would put more than 80 % into one.
    """
    length = (annotations["end_s"] - annotations["start_s"]).to_numpy(np.float64)
    duration = annotations["video"].map(dict(durations_s)).to_numpy(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        coverage = np.where(duration > 0, length / duration, np.nan)
    number = annotations.groupby("video")["video"].transform("size").to_numpy(np.float64)
    measured = {"coverage": coverage, "length": length, "annotations": number}
    found = [_sort(name, values, bins) for name, values in measured.items()]
    return [*found, _gaps(annotations, length)]


def _sort(name: str, values: Floats, bins: BinSet) -> Characteristic:
    known = values[~np.isnan(values)]
    whose = "activitynet" if bins == "auto" else bins
    edges = THUMOS[name] if whose == "thumos" else ACTIVITYNET[name]
    if bins == "auto" and len(known):
        counts = np.bincount(np.searchsorted(edges, known))
        whose = "quantiles" if counts.max() > MAX_SHARE * len(known) else whose
    if whose == "quantiles":
        edges = _quantiles(known, whole=name == "annotations")
    bin_of = np.where(np.isnan(values), -1, np.searchsorted(edges, values))
    names = SIZES[: len(edges)]
    ranges = _ranges(edges, " s" if name == "length" else "", whole=name == "annotations")
    return Characteristic(name, ABOUT[name], names, ranges, bin_of.astype(np.int64), whose)


def _quantiles(values: Floats, whole: bool) -> tuple[float, ...]:
    """Upper edges of at most five bins with about as many values each, rounded to read well."""
    inner = np.quantile(values, (0.2, 0.4, 0.6, 0.8)) if len(values) else np.empty(0)
    rounded = {float(f"{edge:.0f}" if whole else f"{edge:.2g}") for edge in inner}
    largest = values.max(initial=-INF)
    return (*sorted(edge for edge in rounded if edge < largest), INF)


def _ranges(edges: tuple[float, ...], unit: str, whole: bool) -> tuple[str, ...]:
    if len(edges) == 1:
        return ("all",)
    inner = []
    for low, high in pairwise(edges[:-1]):
        first = f"{low + 1:g}" if whole else f"{low:g}"
        inner.append(f"{high:g}{unit}" if first == f"{high:g}" else f"{first}–{high:g}{unit}")
    return (f"≤ {edges[0]:g}{unit}", *inner, f"> {edges[-2]:g}{unit}")


def _gaps(annotations: "pd.DataFrame", length: Floats) -> Characteristic:
    """Bins by the gap to the nearest neighbour, as a multiple of the annotation's own length."""
    by_time = annotations.reset_index(drop=True).sort_values(["video", "start_s"], kind="stable")
    video = by_time.groupby("video", sort=False)
    latest_end = video["end_s"].cummax().groupby(by_time["video"], sort=False).shift()
    before = (by_time["start_s"] - latest_end).fillna(INF)
    after = (video["start_s"].shift(-1) - by_time["end_s"]).fillna(INF)
    gap = np.empty(len(length))
    gap[by_time.index.to_numpy()] = np.minimum(before, after)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(gap <= 0, 0.0, gap / np.maximum(length, 0))
    relative = np.where(np.isinf(gap), INF, np.minimum(relative, GAPS["far"]))
    ranges = ("≤ 0", "≤ 1", "1–4", "> 4", "no other")
    bin_of = np.searchsorted(tuple(GAPS.values()), relative).astype(np.int64)
    return Characteristic("gap", ABOUT["gap"], tuple(GAPS), ranges, bin_of, "ours")
