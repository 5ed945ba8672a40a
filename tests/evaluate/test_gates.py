"""The gates and their command, on a store whose features are known."""

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
