"""The copy of the last stage: learns, resumes exactly, and its stream is that of the frames."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.config import load as load_table
from tad_distill.console import Interrupted, UserError
from tad_distill.data.store import Store, Stream
from tad_distill.distill import checkpoint
from tad_distill.distill.adapter import run as adapter_run
from tad_distill.distill.adapter.command import adapt as command
from tad_distill.distill.adapter.config import AdapterConfig, load_preset
from tad_distill.distill.adapter.loop import Trainer
from tad_distill.distill.adapter.run import adapt, open_inputs
from tad_distill.distill.adapter.windows import Targets
from tad_distill.distill.run_folder import RunFolder
from tad_distill.extract import weights
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.run import extract

BASE, MAPS, TEACHER, MOTION = (
    "tsm_mini:rgb",
    "tsm_mini:rgb@layer2",
    "tsm_mini:tg_luma",
    "tsm_mini:rgb+motion",
)
SOURCES = {BASE: "random:0", MAPS: "random:0", TEACHER: "random:1"}
CONFIG = ExtractConfig(short_side_px=24, crop_px=24, window_frames=16, pool_frames=2)
MakeConfig = Callable[..., AdapterConfig]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of moving noise, their maps and teacher features, and an annotation file."""
    folder = tmp_path_factory.mktemp("adapter")
    random = np.random.default_rng(0)
    database: dict[str, Any] = {}
    files = []
    for number in range(7):
        subset, length = ("training", "training", "validation")[number % 3], 37 + number
        noise = random.integers(0, 256, (48, 140, 3), dtype=np.uint8)
        scene = np.asarray(cv2.GaussianBlur(noise, (5, 5), 0))
        files.append(folder / f"v{number}.mp4")
        writer = cv2.VideoWriter(str(files[-1]), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for frame in range(length):
            writer.write(np.ascontiguousarray(scene[:, 2 * frame % 70 :][:, :64]))
        writer.release()
        rows = [{"label": f"{'ab'[number % 2]} {m}", "segment": s} for m, s in _segments()]
        database[f"v{number}"] = {"subset": subset, "duration": length / 10, "annotations": rows}
    sources = {stream: Path(source) for stream, source in SOURCES.items()}
    extract(files, list(SOURCES), folder / "store", CONFIG, sources)
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    return folder


def _segments() -> list[tuple[str, list[float]]]:
    return [("spin", [0.2, 1.1]), ("sway", [1.6, 2.7])]


@pytest.fixture
def store(world: Path, tmp_path: Path) -> Path:
    """A store of one's own, whose files are the shared one's."""
    (tmp_path / "videos").symlink_to(world)
    return Path(shutil.copytree(world / "store", tmp_path / "store"))


@pytest.fixture
def make(world: Path, store: Path) -> MakeConfig:
    def config(*overrides: str, **sections: Any) -> AdapterConfig:
        table: dict[str, Any] = {
            "data": {"validation_subset": "validation"},
            "adapter": {"maps": MAPS, "teacher": TEACHER},
            "train": {
                "steps": 6,
                "batch_size": 3,
                "window_frames": 16,
                "device": "cpu",
                "log_every": 2,
            },
        }
        for name, section in sections.items():
            table[name] = table[name] | section
        paths = [f'data.store="{store}"', f'data.annotations="{world / "annotations.json"}"']
        return load_table(AdapterConfig, table, [*paths, *overrides])

    return config


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run / "adapter.pt")["state_dict"])


def test_the_copy_learns_to_explain_its_teacher(make: MakeConfig, tmp_path: Path) -> None:
    config = make("train.steps=60")
    inputs = open_inputs(config)
    targets = Targets(inputs.training, TEACHER, 0)
    trainer = Trainer(inputs.base, inputs.training, targets, config.train)
    assert trainer.validate(inputs.training) < 0.1
    tmp_path.joinpath("run").mkdir()
    trainer.run(RunFolder(tmp_path / "run", "adapter.pt"))
    assert trainer.validate(inputs.training) > 0.4


def test_explained_variance_is_that_of_the_definition(make: MakeConfig) -> None:
    config = make()
    inputs = open_inputs(config)
    targets = Targets(inputs.training, TEACHER, 0)
    trainer = Trainer(inputs.base, inputs.training, targets, config.train)
    given = trainer.validate(inputs.validation)
    wanted, said = [], []
    with torch.no_grad():
        for index, video in enumerate(inputs.validation.videos):
            wanted.append(targets.of(inputs.validation, index))
            said.append(trainer.copy.predict(inputs.base.features(video)).numpy())
    z, o = np.concatenate(wanted), np.concatenate(said)
    expected = 1 - ((z - o) ** 2).sum() / ((z - z.mean(0)) ** 2).sum()
    assert given == pytest.approx(expected, rel=1e-3)


def test_only_the_last_stage_learns(make: MakeConfig, tmp_path: Path) -> None:
    adapt(make(), tmp_path / "run")
    base, _ = weights.prepare("tsm_mini", "rgb", 3, Path("random:0"))
    for key, value in state_of(tmp_path / "run").items():
        same = torch.equal(value, base.state_dict()[key])
        assert same != key.startswith("layer3."), key


def test_frozen_batch_norms_stay_as_they_are(make: MakeConfig, tmp_path: Path) -> None:
    adapt(make("train.batch_norm=frozen"), tmp_path / "run")
    base, _ = weights.prepare("tsm_mini", "rgb", 3, Path("random:0"))
    learned = {
        key
        for key, value in state_of(tmp_path / "run").items()
        if not torch.equal(value, base.state_dict()[key])
    }
    assert learned == {"layer3.conv1.weight", "layer3.conv2.weight", "layer3.down.weight"}


def test_an_interrupted_run_ends_with_the_same_bytes(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make()
    adapt(config, tmp_path / "whole")
    whole = (tmp_path / "whole/adapter.pt").read_bytes()
    learn = Trainer._learn

    def learn_then_signal(self: Trainer, *args: Any) -> float:
        loss = learn(self, *args)
        if self.step == 3:
            monkeypatch.setattr(console, "_stop_signal", 10)
        return loss

    again = make(adapter={"name": "again"})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_learn", learn_then_signal)
        with pytest.raises(Interrupted, match="step 3 of 6 is saved"):
            adapt(again, tmp_path / "again")
    monkeypatch.setattr(console, "_stop_signal", None)
    assert not (tmp_path / "again/adapter.pt").exists()
    adapt(again, tmp_path / "again")
    one, other = state_of(tmp_path / "whole"), state_of(tmp_path / "again")
    assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)
    histories = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "again")]
    assert histories[0] == histories[1] and histories[0].count("\n") == 3
    adapt(config, tmp_path / "whole")  # finished already: nothing is trained again
    assert (tmp_path / "whole/adapter.pt").read_bytes() == whole


def test_an_interrupted_export_goes_on(
    make: MakeConfig, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stop_at_the_third(what: str) -> None:
        nonlocal calls
        calls += what.startswith("finished videos")
        if calls == 3:
            raise Interrupted(what)

    with monkeypatch.context() as patch:
        patch.setattr(console, "check_stop", stop_at_the_third)
        with pytest.raises(Interrupted):
            adapt(make(), tmp_path / "run")
    assert len(Store.open(store).stream(MOTION).videos) == 2
    adapt(make(), tmp_path / "run")
    assert Store.open(store).stream(MOTION).videos == [f"v{i}" for i in range(7)]


def test_features_from_maps_are_those_from_the_frames(
    make: MakeConfig, world: Path, store: Path, tmp_path: Path
) -> None:
    report = adapt(make('adapter.export=["mean", "rich"]'), tmp_path / "run")
    assert report["streams"] == [MOTION, f"{MOTION}.rich"]
    files = sorted(world.glob("*.mp4"))
    source = dict.fromkeys(report["streams"], tmp_path / "run/adapter.pt")
    extract(files, report["streams"], tmp_path / "direct", CONFIG, source)
    for name in report["streams"]:
        ours, direct = (Store.open(path).stream(name) for path in (store, tmp_path / "direct"))
        assert ours.spec.hash == direct.spec.hash
        for video in direct.videos:
            given, expected = (s.read(video).astype(float) for s in (ours, direct))
            assert given.shape == expected.shape
            np.testing.assert_allclose(given, expected, atol=4e-3 * np.abs(expected).max())
        assert ours.entry("v0") == direct.entry("v0")
    # So the stream of the store can be gone on with from new videos.
    again = extract(files, report["streams"], store, CONFIG, source)
    assert again.skipped == [f"v{i}" for i in range(7)] and not again.done


def test_the_stream_tells_where_it_comes_from(
    make: MakeConfig, store: Path, tmp_path: Path
) -> None:
    adapt(make(), tmp_path / "run")
    opened = Store.open(store)
    spec = opened.stream(MOTION).spec
    copy = spec.weights["copy"]
    assert (copy["name"], copy["stage"], copy["target"]) == ("motion", "layer3", "teacher")
    assert copy["teacher"] == {"stream": TEACHER, "hash": opened.stream(TEACHER).spec.hash}
    assert copy["maps"] == opened.stream(MAPS).spec.hash
    assert copy["base"]["seed"] == 0 and copy["recipe"]["steps"] == 6
    assert copy["counts"]["videos"] == 5
    assert len(spec.weights["sha256"]) == 64
    assert spec.origin["weights"] == str(tmp_path / "run/adapter.pt")
    assert spec.stride_frames == opened.stream(BASE).spec.stride_frames == 2


def test_labels_make_the_control_from_the_labelled_videos(
    make: MakeConfig, store: Path, tmp_path: Path
) -> None:
    # No teacher is needed.
    about = ("adapter.target=labels", "adapter.teacher=tsm_mini:flow", "data.label_fraction=0.4")
    config = make(*about, "train.steps=40")
    inputs = open_inputs(config)
    targets = Targets(inputs.training, None, len(inputs.labels))
    windows = Trainer(inputs.base, inputs.training, targets, config.train).windows
    known = zip(inputs.training.videos, inputs.training.labelled, strict=True)
    labelled = {video for video, has_labels in known if has_labels}
    assert len(labelled) == 2 < len(inputs.training)
    assert {video for n in range(9) for video in windows.batch(n).videos} == labelled
    report = adapt(config, tmp_path / "run")
    assert report["streams"] == ["tsm_mini:rgb+labels"] and report["teacher"] is None
    assert 0 < report["validation"]["accuracy"] <= 1
    assert report["counts"]["labelled"] == 2


def test_the_base_can_be_its_own_teacher(make: MakeConfig, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no stream 'tsm_mini:rgb\.rich'"):
        adapt(make("adapter.target=self"), tmp_path / "run")
    rich = {f"{BASE}.rich": Path("random:0")}
    files = sorted((store.parent / "videos").glob("*.mp4"))
    extract(files, list(rich), store, CONFIG, rich)
    report = adapt(make("adapter.target=self"), tmp_path / "run")
    assert report["streams"] == ["tsm_mini:rgb+self"]
    assert report["teacher"]["stream"] == f"{BASE}.rich"
    assert report["validation"].keys() == {"explained_variance"}


@pytest.mark.parametrize(("least", "warned"), [(2.0, True), (-1e9, False)])
def test_a_copy_that_explains_little_is_said_to_be_of_little_use(
    least: float, warned: bool, make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("tad_distill.console.warn", told.append)
    monkeypatch.setattr(adapter_run, "LITTLE_EXPLAINED", least)
    adapt(make("train.steps=2"), tmp_path / "run")
    assert any("a student is unlikely to gain" in text for text in told) == warned


def test_without_annotations_some_videos_are_held_out(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"adapter": {"maps": MAPS, "teacher": TEACHER}, "train": {"steps": 2}}
    config = load_table(AdapterConfig, table, [f'data.store="{store}"'])
    report = adapt(config, tmp_path / "run")
    assert report["counts"]["videos"] == 6 and report["probes"] == []
    assert "event=held_out videos=1 of=7" in capsys.readouterr().err


def test_videos_that_no_annotation_names_are_learned_from(
    make: MakeConfig, world: Path, tmp_path: Path
) -> None:
    everything = json.loads((world / "annotations.json").read_text())["database"]
    few = {name: facts for name, facts in everything.items() if name not in ("v3", "v4")}
    (tmp_path / "few.json").write_text(json.dumps({"database": few}))
    settings = [f'data.annotations="{tmp_path / "few.json"}"', "data.unlabelled=true"]
    assert open_inputs(make(*settings)).training.videos == ["v0", "v1", "v6"]
    more = open_inputs(make(*settings, "data.unlisted=true")).training
    assert more.videos == ["v0", "v1", "v6", "v3", "v4"]
    assert more.counts["unlisted"] == 2


def test_a_teacher_far_ahead_is_no_reason_to_warn(
    make: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapt(make(adapter={"teacher": BASE}), tmp_path / "run")  # it knows what the base knows
    assert "the teacher knows 0.0 points more of motion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.maps=tsm_mini:rgb"], "is not what the last stage layer3 reads.*@layer2"),
        (["adapter.maps=tsm_mini:rgb@layer1"], "no stream 'tsm_mini:rgb@layer1'"),
        (["adapter.teacher=tsm_mini:flow"], "no stream 'tsm_mini:flow'"),
        (["adapter.teacher=tsm_mini:rgb@layer2"], "a detector reads vectors"),
        (["adapter.weights=random:3"], "did not make stream .*weights.seed: 3 here, 0 there"),
        (["adapter.weights=gone.pt"], "gone.pt: the weights that made .* are gone; .*--weights"),
        (["data.subset=trainin"], "no subset 'trainin'"),
        (['data.annotations="gone.json"'], "gone.json"),
        (['data.store="gone"'], "no feature store"),
        (["train.window_frames=5", "train.edge_frames=2"], "windows|steps"),
    ],
)
def test_what_does_not_fit_is_said(
    overrides: list[str], message: str, make: MakeConfig, store: Path, tmp_path: Path
) -> None:
    with pytest.raises((UserError, OSError), match=message):
        adapt(make(*overrides), tmp_path / "run")
    assert MOTION not in Store.open(store).streams()


def test_features_made_elsewhere_have_no_stage_to_copy(
    make: MakeConfig, store: Path, add_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    add_stream(store, "other:rgb@layer3", {"v0": np.zeros((9, 2, 3, 3), np.float32)})
    with pytest.raises(UserError, match="was not extracted by this program"):
        adapt(make("adapter.maps=other:rgb@layer3"), tmp_path / "run")


def test_a_name_that_is_taken_is_refused_before_the_training(
    make: MakeConfig, tmp_path: Path
) -> None:
    adapt(make(), tmp_path / "one")
    with pytest.raises(UserError, match=r"\+motion is there already.*adapter.name"):
        adapt(make("train.seed=1"), tmp_path / "two")
    assert not (tmp_path / "two").exists()
    with pytest.raises(ConfigError, match=r"train.seed \(0 -> 1\)"):
        adapt(make("train.seed=1"), tmp_path / "one")
    report = adapt(make("train.seed=1", "adapter.name=motion1"), tmp_path / "three")
    assert report["streams"] == ["tsm_mini:rgb+motion1"]


def test_a_loss_that_is_no_number_ends_the_run(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.full((3, 8), float("nan"))
    monkeypatch.setattr("tad_distill.distill.adapter.loop.step_loss", lambda *args: nan)
    with pytest.raises(UserError, match="step 0: the loss is nan for windows of the videos v"):
        adapt(make(), tmp_path / "run")
    assert not (tmp_path / "run" / adapter_run.PRODUCT).exists()


def test_the_command_prints_what_was_explained_and_the_stream(
    world: Path, store: Path, tmp_path: Path
) -> None:
    args = ["--preset", "world_adapter", "--store", store, "--out", tmp_path / "run"]
    args += ["--annotations", world / "annotations.json", "--seed", 3, "--set", "train.steps=2"]
    ended = CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)
    assert ended.exception is None, ended.exception
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("probes, per cent")
    for stream in (BASE, TEACHER, MOTION):
        assert any(line.startswith(stream) and " motion " in line for line in lines)
    assert lines[-2].startswith("explained variance on held-out videos: ")
    assert lines[-1] == MOTION
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["recipe"]["seed"] == 3 and len(report["probes"]) == 3
    assert f"{report['validation']['explained_variance']:.3f}" == lines[-2].split()[-1]


@pytest.mark.parametrize("name", ["adapter", "world_adapter"])
def test_a_preset_is_the_measured_recipe(name: str) -> None:
    recipe = load_preset(name).train
    assert recipe == type(recipe)()
    # A video of 384 frames makes one batch of 16 windows of 24 frames.
    assert recipe.num_batches(60 * 384) == 450 and recipe.num_batches(200 * 384) == 1000
