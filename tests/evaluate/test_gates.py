"""Probes against brute force and closed forms; the gates and their command."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tad_distill.console import UserError
from tad_distill.data import annotations as annotation_files
from tad_distill.data.annotations import AnnotationSet
from tad_distill.data.spec import StreamSpec
from tad_distill.data.store import Store
from tad_distill.evaluate.gates import (
    Accuracy,
    Gate,
    Probes,
    check,
    label_tasks,
    probe_stream,
    table_rows,
)
from tad_distill.evaluate.gates_command import gates as gates_command
from tad_distill.evaluate.probes import (
    PENALTIES,
    auc,
    choose_penalty,
    class_accuracy,
    inside_any,
    pool_segments,
    ridge,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_ridge_is_the_least_squares_fit_with_penalty_rows(rng: np.random.Generator) -> None:
    feats, targets, penalty = rng.normal(3, 2, (30, 5)), rng.normal(size=(30, 2)), 0.3
    probe = ridge(feats, targets, penalty)
    standard = (feats - feats.mean(0)) / feats.std(0)
    design = np.block(
        [[standard, np.ones((30, 1))], [np.sqrt(30 * penalty) * np.eye(5), np.zeros((5, 1))]]
    )
    wanted = np.linalg.lstsq(design, np.vstack([targets, np.zeros((5, 2))]), rcond=None)[0]
    np.testing.assert_allclose(probe.weight, wanted[:5], rtol=1e-9)
    np.testing.assert_allclose(probe(feats), design[:30] @ wanted, rtol=1e-9)


def test_ridge_ignores_features_that_never_vary(rng: np.random.Generator) -> None:
    feats, targets = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    widened = np.concatenate([feats, np.full((20, 1), 0.1)], axis=1)
    same = ridge(widened, targets, 0.1)(widened)
    np.testing.assert_allclose(same, ridge(feats, targets, 0.1)(feats), rtol=1e-9)


@pytest.mark.parametrize("num_rows", [8, 25])
def test_penalty_is_the_best_of_refits_without_each_row(
    rng: np.random.Generator, num_rows: int
) -> None:
    feats = rng.normal(size=(num_rows, 10))
    targets = feats[:, :2] + rng.normal(size=(num_rows, 2))
    x = (feats - feats.mean(0)) / feats.std(0)
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for row in range(num_rows):
            kept = np.delete(np.arange(num_rows), row)
            design = np.column_stack([x[kept], np.ones(len(kept))])
            shrink = np.diag([num_rows * penalty] * 10 + [0.0])
            weight = np.linalg.solve(design.T @ design + shrink, design.T @ targets[kept])
            error += float(((np.append(x[row], 1) @ weight - targets[row]) ** 2).sum())
        errors.append(error)
    assert choose_penalty(feats, targets) == PENALTIES[int(np.argmin(errors))]


def test_accuracy_counts_hits_and_misses_classes_never_trained(rng: np.random.Generator) -> None:
    train = np.repeat([[0.0, 1.0], [1.0, 0.0]], 10, axis=0) + rng.normal(0, 0.01, (20, 2))
    names = np.repeat(["up", "right"], 10)
    test = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = class_accuracy((train, names), (test, np.array(["up", "right", "up", "new"])))
    assert found == 0.5


def test_accuracy_of_nothing_is_nan() -> None:
    none = (np.empty((0, 2)), np.array([], dtype=str))
    some = (np.ones((2, 2)), np.array(["a", "b"]))
    assert np.isnan(class_accuracy(none, some))
    assert np.isnan(class_accuracy(some, none))


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 40) / 5
    positive = rng.random(40) < 0.3
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[positive]
        for n in scores[~positive]
    ]
    assert auc(scores, positive) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("all_are", [True, False])
def test_auc_of_one_side_alone_is_nan(all_are: bool) -> None:
    assert np.isnan(auc(np.arange(3.0), np.full(3, all_are)))


def test_segments_are_pooled_over_the_centres_they_hold() -> None:
    feats = np.arange(6.0)[:, None]
    segments = np.array([[1.0, 3.0], [1.1, 2.9], [2.2, 2.4], [-3.0, 0.5], [9.0, 11.0]])
    pooled = pool_segments(feats, segments)
    np.testing.assert_allclose(pooled[:, 0], [2, 2, 2, 0, 5])
    np.testing.assert_allclose(pooled[:, 1], [float(np.std([1, 2, 3])), 0, 0, 0, 0])


def test_no_segment_pools_to_no_row_and_is_all_background() -> None:
    none = np.empty((0, 2))
    assert pool_segments(np.ones((4, 3)), none).shape == (0, 6)
    assert not inside_any(4, none).any()


def test_steps_inside_any_segment() -> None:
    inside = inside_any(6, np.array([[0.5, 2.0], [1.0, 1.5], [4.9, 7.0]]))
    assert inside.tolist() == [False, True, True, False, False, True]


def test_two_words_make_two_tasks_and_other_labels_one() -> None:
    tasks = label_tasks(("blue spin", "red spin", "red sway"))
    assert tasks["object"] == {"blue spin": "blue", "red spin": "red", "red sway": "red"}
    assert tasks["motion"]["red sway"] == "sway"
    assert list(label_tasks(("Long Jump", "Diving"))) == ["label"]
    assert list(label_tasks(("Long Jump", "High Jump"))) == ["label"]


def probes(motion: float, colour: float) -> Probes:
    accuracy = {"object": Accuracy(colour, 0, 0.2), "motion": Accuracy(motion, 0, 0.33)}
    return Probes("s", 10, 10, accuracy, 0.9)


def outcome(found: list[Gate]) -> dict[str, bool | None]:
    return {gate.name: gate.passed for gate in found}


def test_gates_hold_at_their_bars() -> None:
    values = {"rgb": 30.0, "teacher": 22.0, "two_stream": 35.0}
    found = check(probes(0.5, 0.8), probes(0.75, 0.3), values)
    assert set(outcome(found).values()) == {True}
    assert {row[-1] for row in table_rows(found)} == {"pass", "inside"}


def test_gates_fail_below_their_bars() -> None:
    values = {"rgb": 29.0, "teacher": 33.0, "two_stream": 35.5}
    found = check(probes(0.76, 0.3), probes(0.8, 0.3), values)
    assert outcome(found) == {
        "G1": False,
        "G1 band": False,
        "G2": False,
        "G2 gap": True,
        "G3": False,
        "G4": False,
    }


def test_gates_without_their_measurements_are_not_decided() -> None:
    plain = Probes("s", 10, 10, {"label": Accuracy(0.5, 0.5, 0.1)}, 0.9)
    found = check(plain, plain, {"rgb": 40.0})
    assert {name for name, passed in outcome(found).items() if passed is not None} == {"G2"}
    assert ["not measured" in row for row in table_rows(found)].count(True) == 5


OBJECTS, MOTIONS = ("blue", "red"), ("spin", "sway")
NUM_STEPS, STEP_S = 40, 0.5


def write_world(folder: Path) -> Path:
    """Annotations: two segments per video, 12 videos to train on and 8 to score."""
    rng = np.random.default_rng(1)
    database = {}
    for i in range(20):
        database[f"v{i:02d}"] = {
            "subset": "training" if i < 12 else "validation",
            "duration": NUM_STEPS * STEP_S,
            "annotations": [
                {
                    "label": f"{rng.choice(OBJECTS)} {rng.choice(MOTIONS)}",
                    "segment": [start, start + 4.0],
                }
                for start in (2.0, 11.0)
            ],
        }
    path = folder / "annotations.json"
    path.write_text(json.dumps({"database": database}))
    return path


def write_stream(store: Store, name: str, truth: AnnotationSet, knows: int) -> None:
    """Features that tell action from background, and one of a label's two words."""
    rng = np.random.default_rng(knows)
    spec = StreamSpec(
        stream=name,
        backbone="made",
        modality=name.split(":")[1],
        weights={},
        fps=8,
        clip_frames=4,
        stride_frames=4,
        offset_frames=2,
        shape=(4,),
        dtype="float32",
        details={},
        software={},
    )
    stream = store.create_stream(spec)
    writer = stream.writer("all")
    for video in truth.videos.values():
        feats = rng.normal(0, 0.3, (NUM_STEPS, 4)).astype(np.float32)
        for annotation in video.annotations:
            first, stop = (int(t / STEP_S) for t in (annotation.start_s, annotation.end_s))
            words = (OBJECTS, MOTIONS)[knows]
            feats[first:stop, 0] += 2
            feats[first:stop, 1 + words.index(annotation.label.split()[knows])] += 2
        writer.commit(
            video.name, feats, fps=8, duration_s=NUM_STEPS * STEP_S, source_hash=video.name
        )
    writer.seal()


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    """A store whose RGB knows objects and whose teacher knows motions, and its annotations."""
    annotations = write_world(tmp_path)
    truth = annotation_files.read(annotations)
    store = Store.create(tmp_path / "store")
    write_stream(store, "made:rgb", truth, 0)
    write_stream(store, "made:tg", truth, 1)
    return tmp_path / "store", annotations


def test_probes_find_what_the_features_know(world: tuple[Path, Path]) -> None:
    truth = annotation_files.read(world[1])
    stream = Store.open(world[0]).stream("made:rgb")
    found = probe_stream(stream, truth.subset("training"), truth.subset("validation"))
    assert (found.num_train, found.num_scored) == (24, 16)
    assert found.accuracy["object"].mean == 1.0
    assert found.accuracy["motion"].mean < 0.9
    assert found.action_auc > 0.95


def test_probes_need_the_subset_in_the_store(world: tuple[Path, Path]) -> None:
    truth = annotation_files.read(world[1])
    stream = Store.create(world[0].parent / "other").create_stream(
        Store.open(world[0]).stream("made:rgb").spec
    )
    with pytest.raises(UserError, match="none of the 12 videos of subset 'training'"):
        probe_stream(stream, truth.subset("training"), truth.subset("validation"))


def run(world: tuple[Path, Path], *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        gates_command,
        ["--store", str(world[0]), "--annotations", str(world[1])]
        + ["--rgb-stream", "made:rgb", "--teacher-stream", "made:tg", *more],
    )
    return result.exit_code, result.output


def test_command_prints_every_gate_and_passes_unless_strict(world: tuple[Path, Path]) -> None:
    code, text = run(world)
    assert code == 0
    assert [line.split()[0] for line in text.splitlines() if line.startswith("G")].count("G4") == 1
    assert run(world, "--strict")[0] == 1  # G2 and G3 are not measured


def test_command_scores_detections_of_the_subset(world: tuple[Path, Path], tmp_path: Path) -> None:
    truth = json.loads(world[1].read_text())["database"]
    perfect = {
        "results": {
            name: [
                {"label": a["label"], "segment": a["segment"], "score": 1.0}
                for a in video["annotations"]
            ]
            for name, video in truth.items()
        }
    }
    nothing: dict[str, dict[str, list[object]]] = {"results": {name: [] for name in truth}}
    best, worst = tmp_path / "best.json", tmp_path / "worst.json"
    best.write_text(json.dumps(perfect))
    worst.write_text(json.dumps(nothing))
    out = tmp_path / "gates.json"
    flags = ["--rgb", best, "--teacher", worst, "--two-stream", best, "--json", out]
    assert run(world, *map(str, flags))[0] == 0
    found = json.loads(out.read_text())
    assert found["average_mAP_points"] == {"rgb": 100.0, "teacher": 0.0, "two_stream": 100.0}
    gates = {gate["name"]: gate for gate in found["gates"]}
    assert gates["G2"]["passed"] and not gates["G3"]["passed"]
    assert gates["G3"]["value"] == 0.0
    assert gates["G1"]["passed"] and gates["G4"]["passed"]
