"""The diagnosis: closed-form cases, an independent brute force, and what must always hold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import brute_force_diagnosis as brute
import numpy as np
import pandas as pd
import pytest
from scoring_cases import ANNOTATION, DETECTION, random_case

from tad_distill.data.annotations import Annotation, AnnotationSet, Video
from tad_distill.evaluate.diagnosis import TYPES, Diagnosis, diagnose, document
from tad_distill.evaluate.diagnosis.characteristics import describe
from tad_distill.evaluate.diagnosis.precision import average_precision
from tad_distill.evaluate.diagnosis.tables import show
from tad_distill.evaluate.protocols import PROTOCOLS, Result, score

PLAIN = PROTOCOLS["plain"]


def scored(
    annotations: pd.DataFrame,
    detections: pd.DataFrame,
    tiou: Sequence[float] = (0.5,),
    duration_s: float | None = 100.0,
) -> Result:
    videos = {
        str(name): Video(
            str(name),
            "test",
            duration_s,
            None,
            tuple(
                Annotation(str(label), start, end)
                for label, start, end in part[["label", "start_s", "end_s"]].itertuples(index=False)
            ),
        )
        for name, part in annotations.groupby("video", sort=False)
    }
    truth = AnnotationSet(videos, tuple(sorted(annotations["label"].unique())), "made")
    return score(truth, detections, replace(PLAIN, tiou=tuple(tiou)))


def diagnosed(
    annotations: list[tuple[Any, ...]],
    detections: list[tuple[Any, ...]],
    tiou: Sequence[float] = (0.5,),
    duration_s: float | None = 100.0,
) -> Diagnosis:
    result = scored(
        pd.DataFrame(annotations, columns=ANNOTATION),
        pd.DataFrame(detections, columns=DETECTION),
        tiou,
        duration_s,
    )
    return diagnose(result, dict.fromkeys(result.videos, duration_s))


def of_type(diagnosis: Diagnosis) -> list[str]:
    return [TYPES[code] for code in diagnosis.types[0]]


ONE_OF_EACH = [
    ("v", "jump", 0.9, 0.0, 10.0),  # takes the annotation
    ("v", "jump", 0.8, 0.5, 10.0),  # has it again
    ("v", "jump", 0.7, 20.0, 29.0),  # a run
    ("v", "jump", 0.6, 0.0, 4.0),  # overlaps 0.4
    ("v", "jump", 0.5, 28.0, 34.0),  # overlaps the run by 2/14
    ("v", "jump", 0.4, 50.0, 60.0),  # nothing there
    ("elsewhere", "jump", 0.3, 0.0, 10.0),
]
TRUTH = [("v", "jump", 0.0, 10.0), ("v", "run", 20.0, 30.0)]


def test_one_detection_of_each_type_is_called_by_its_name() -> None:
    assert of_type(diagnosed(TRUTH, ONE_OF_EACH)) == [*TYPES, "background"]


def test_a_detection_with_an_unknown_label_has_no_type() -> None:
    found = diagnosed(TRUTH, [*ONE_OF_EACH, ("v", "swim", 0.9, 0.0, 10.0)])
    assert found.types[0].tolist() == [0, 1, 2, 3, 4, 5, 5, -1]


def test_of_equal_overlaps_the_detections_own_label_decides() -> None:
    twins = [("v", "dive", 0.0, 10.0), ("v", "cliff dive", 0.0, 10.0)]
    again = [("v", "dive", 0.9, 0.0, 10.0), ("v", "dive", 0.8, 0.0, 10.0)]
    for truth in (twins, twins[::-1]):
        assert of_type(diagnosed(truth, again)) == ["true positive", "double detection"]


def test_the_price_of_an_error_is_what_its_removal_brings() -> None:
    # One label, two annotations, background first: hits at places 2 and 3 of 3.
    truth = [("v", "jump", 0.0, 10.0), ("v", "jump", 20.0, 30.0)]
    found = [
        ("v", "jump", 0.9, 50.0, 60.0),
        ("v", "jump", 0.8, 0.0, 10.0),
        ("v", "jump", 0.7, 20.0, 30.0),
    ]
    errors = diagnosed(truth, found).errors
    assert errors.mAP == pytest.approx(2 / 3)  # the envelope of 1/2, 2/3
    assert errors.gain["background"] == pytest.approx(1 / 3)
    assert sum(abs(v) for k, v in errors.gain.items() if k != "background") == 0
    assert errors.gain_all == pytest.approx(1 / 3)
    assert errors.missed == pytest.approx(0)


def test_the_groups_of_the_profile_are_as_large_as_the_labels() -> None:
    truth = [*TRUTH, ("w", "jump", 0.0, 10.0)]  # two jumps and a run
    found = [("v", "jump", 1 - i / 100, 50.0 + i, 60.0 + i) for i in range(30)]
    found += [("v", "run", 1 - i / 100, 20.0, 30.0) for i in range(3)]
    counts = diagnosed(truth, found).errors.counts[:, 0]
    assert counts.sum(axis=1).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert counts[0].tolist() == [1, 0, 0, 0, 0, 2]
    assert counts[1].tolist() == [0, 1, 0, 0, 0, 2]


def test_labels_that_are_mixed_up_are_counted_in_pairs() -> None:
    mixups = diagnosed(TRUTH, [("v", "jump", 0.9, 20.0, 30.0), *ONE_OF_EACH]).errors.mixups
    assert [tuple(m) for m in mixups] == [("jump", "run", 1.0)]


def test_normalised_precision_is_that_of_a_label_of_mean_size() -> None:
    # One of 4 annotations found after 2 false positives, as if there were 8: 2 / (2 + 2).
    area = average_precision(np.array([0]), np.array([2]), np.array([4]), 8.0)
    assert area == pytest.approx([0.5 / 4])
    assert average_precision(np.array([0]), np.array([2]), np.array([4])) == pytest.approx([1 / 12])


def with_one_hit(annotations: pd.DataFrame, detections: pd.DataFrame) -> pd.DataFrame:
    """What no annotation fits is refused before any diagnosis."""
    hit = annotations.head(1).assign(score=0.5)[DETECTION]
    return pd.concat([detections, hit], ignore_index=True) if len(detections) else hit


@pytest.mark.parametrize("seed", range(25))
def test_equals_a_brute_force(seed: int) -> None:
    annotations, detections = random_case(seed, ties=bool(seed % 2))
    # Equal overlaps of several labels are a matter of convention; here they are to be rare.
    jitter = np.random.default_rng(seed).normal(0, 0.01, (len(annotations), 2))
    annotations[["start_s", "end_s"]] += np.sort(jitter, axis=1)
    detections = with_one_hit(annotations, detections)
    tiou = (0.3, 0.6)
    result = scored(annotations, detections, tiou)
    order = result.annotations  # grouped by video
    found = diagnose(result, {"a": 30.0, "b": None, "c": 15.0})
    judged = [brute.judge(order, detections, threshold) for threshold in tiou]
    for t, by_label in enumerate(judged):
        for j in by_label.values():
            assert found.types[t, j.rows].tolist() == j.codes
    assert found.mAP == pytest.approx(result.scores.average_mAP)
    for normalised, gain, base in (
        (False, found.errors.gain, found.errors.mAP),
        (True, found.errors.gain_N, found.errors.mAP_N),
    ):
        assert base == pytest.approx(
            np.mean([brute.mean_without(j, (), normalised) for j in judged])
        )
        for code, name in enumerate(TYPES[1:], start=1):
            without = np.mean([brute.mean_without(j, (code,), normalised) for j in judged])
            assert base + gain[name] == pytest.approx(without)
    without = np.mean([brute.mean_without(j, range(1, 6), False) for j in judged])
    assert found.errors.mAP + found.errors.gain_all == pytest.approx(without)
    for stratum in found.strata:
        for b in range(len(stratum.of.bins)):
            inside = set(np.flatnonzero(stratum.of.bin_of == b).tolist())
            expected = np.mean([brute.mean_inside(j, order, inside) for j in judged])
            assert stratum.mAP_N[b] == pytest.approx(expected, nan_ok=True)
            lost = [_missed(j, inside) for j in judged]
            assert stratum.missed[b] == pytest.approx(np.mean(lost), nan_ok=True)


def _missed(judged: dict[str, brute.Judged], inside: set[int]) -> float:
    normal = float(np.mean([j.num_positive for j in judged.values()]))
    found: set[int] = set()
    for j in judged.values():
        found |= set(j.area([True] * len(j.rows), j.num_positive, normal)[1])
    return len(inside - found) / len(inside) if inside else float("nan")


@pytest.mark.parametrize("seed", range(20))
def test_shares_add_up_and_no_removal_lowers_the_map(seed: int) -> None:
    annotations, detections = random_case(100 + seed, ties=True)
    detections = with_one_hit(annotations, detections)
    found = diagnose(scored(annotations, detections, (0.05, 0.5, 0.9)), {"a": 20.0})
    shares, counts = found.errors.shares, found.errors.counts
    filled = counts.sum(axis=(1, 2)) > 0
    assert shares[filled].sum(axis=1) == pytest.approx(1)
    assert np.isnan(shares[~filled]).all()
    assert all(v > -1e-12 for v in (*found.errors.gain.values(), *found.errors.gain_N.values()))
    assert max(found.errors.gain.values()) <= found.errors.gain_all + 1e-12
    assert found.errors.mAP + found.errors.gain_all + found.errors.missed == pytest.approx(1)
    for stratum in found.strata:
        known = int((stratum.of.bin_of >= 0).sum())
        assert stratum.num_annotations.sum() == known
        there = stratum.num_annotations > 0
        assert (np.isnan(stratum.mAP_N) == ~there).all()
        if known == len(annotations):
            mean = np.average(stratum.missed[there], weights=stratum.num_annotations[there])
            assert mean == pytest.approx(found.missed)


def test_perfect_detections_have_no_errors_and_miss_nothing() -> None:
    found = diagnosed(TRUTH, [(v, label, 0.9, s, e) for v, label, s, e in TRUTH])
    assert found.mAP == found.mAP_N == 1
    assert found.missed == 0 and found.errors.missed == 0
    assert found.errors.shares[0].tolist() == [1, 0, 0, 0, 0, 0]


def test_nothing_detected_is_everything_missed(capsys: pytest.CaptureFixture[str]) -> None:
    found = diagnosed(TRUTH, [])
    assert found.mAP == 0 and found.missed == 1 and found.errors.missed == 1
    assert np.isnan(found.errors.shares).all()
    show(found)
    assert "100.0" in capsys.readouterr().out
    assert document(found)["false_positives"]["shares"]["background"] == [None] * 10


def table(*rows: tuple[str, float, float]) -> pd.DataFrame:
    return pd.DataFrame([(v, "x", s, e) for v, s, e in rows], columns=ANNOTATION)


def test_bins_of_the_benchmarks_hold_their_upper_edges() -> None:
    rows = table(("a", 0, 30), ("a", 0, 30.5), ("a", 0, 180), ("b", 0, 181))
    by_name = {c.name: c for c in describe(rows, {"a": 200.0}, "activitynet")}
    assert by_name["length"].bin_of.tolist() == [0, 1, 3, 4]
    assert by_name["coverage"].bin_of.tolist() == [0, 0, 4, -1]  # b states no duration
    assert by_name["annotations"].bin_of.tolist() == [1, 1, 1, 0]
    assert by_name["annotations"].ranges == ("≤ 1", "2–4", "5–8", "> 8")
    thumos = {c.name: c for c in describe(rows, {}, "thumos")}
    assert thumos["length"].bin_of.tolist() == [4, 4, 4, 4]


def test_bins_that_would_all_be_one_give_way_to_quantiles() -> None:
    rows = table(*(("a", i, i + 1 + i / 10) for i in range(20)))
    by_name = {c.name: c for c in describe(rows, {"a": 1000.0})}
    assert by_name["length"].edges == "quantiles"
    assert np.bincount(by_name["length"].bin_of).tolist() == [4, 4, 4, 4, 4]
    spread = table(*((str(i), 0, 40.0 * (i + 1)) for i in range(5)))
    assert {c.edges for c in describe(spread, {}) if c.name == "length"} == {"activitynet"}


def test_one_length_makes_one_bin() -> None:
    rows = table(("a", 0, 2), ("a", 5, 7), ("b", 1, 3))
    (length,) = (c for c in describe(rows, {}, "quantiles") if c.name == "length")
    assert length.bins == ("XS",) and length.ranges == ("all",)


def test_gaps_are_to_the_nearest_neighbour_in_lengths_of_the_annotation() -> None:
    rows = table(
        ("a", 30, 32), ("a", 0, 10), ("a", 5, 6), ("a", 13, 14), ("b", 0, 5),
        ("c", 2, 2), ("c", 4, 5),
    )  # fmt: skip
    gap = describe(rows, {})[-1]
    names = [gap.bins[b] for b in gap.bin_of]
    assert names == ["far", "overlapping", "overlapping", "mid", "alone", "far", "mid"]


def test_a_protocol_of_thumos_brings_its_bins() -> None:
    result = scored(
        pd.DataFrame(TRUTH, columns=ANNOTATION), pd.DataFrame(ONE_OF_EACH, columns=DETECTION)
    )
    for name, bins in (("thumos-212", "thumos"), ("activitynet", "activitynet")):
        named = replace(result, protocol=replace(result.protocol, name=name))
        edges = {s.of.edges for s in diagnose(named, {}).strata}
        assert edges == {bins, "ours"}
