"""End-to-end fine-tuning: starts where the features are, learns, resumes, and can be used."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.config import load as load_table
from tad_distill.console import Interrupted, UserError
from tad_distill.data.store import Store, Stream
from tad_distill.detect import detect
from tad_distill.distill import checkpoint
from tad_distill.distill.adapter.config import AdapterConfig
from tad_distill.distill.adapter.run import adapt
from tad_distill.distill.config import Experiment
from tad_distill.distill.finetune.command import finetune as command
from tad_distill.distill.finetune.config import FinetuneConfig, load, load_preset
from tad_distill.distill.finetune.features import FreshGrid, see
from tad_distill.distill.finetune.loop import EndToEndTrainer
from tad_distill.distill.finetune.run import (
    finetune,
    make_trainer,
    open_backbones,
    open_frames,
    open_run,
)
from tad_distill.distill.predict import Run, predict
from tad_distill.distill.sources import open_sources
from tad_distill.distill.train import train
from tad_distill.extract import weights as weight_files
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.run import extract
from tad_distill.extract.trunk import share

RGB, TG, MAPS, MOTION = (
    "tsm_mini:rgb",
    "tsm_mini:tg_luma",
    "tsm_mini:rgb@layer2",
    "tsm_mini:rgb+motion",
)
SEEDS = {RGB: "random:0", TG: "random:1", MAPS: "random:0"}
CONFIG = ExtractConfig(
    short_side_px=24, crop_px=24, window_frames=16, pool_frames=2, dtype="float32", num_decoders=1
)
CPU = torch.device("cpu")
HEAD = {"kind": "actionformer", "embd_dim": 8, "num_heads": 2, "arch": [1, 1, 1], "window": [5]}
SINGLE = {"streams": [RGB], "dim": 8, "num_layers": 1}
Make = Callable[..., FinetuneConfig]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of moving noise, their features, a teacher, and runs named after their streams."""
    folder = tmp_path_factory.mktemp("finetune")
    random = np.random.default_rng(0)
    database: dict[str, Any] = {}
    (folder / "videos").mkdir()
    for number in range(6):
        length = 37 + number
        noise = random.integers(0, 256, (32, 120, 3), dtype=np.uint8)
        scene = np.asarray(cv2.GaussianBlur(noise, (5, 5), 0))
        path = str(folder / f"videos/v{number}.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 10, (40, 32))
        for frame in range(length):
            writer.write(np.ascontiguousarray(scene[:, 2 * frame % 70 :][:, :40]))
        writer.release()
        subset = "validation" if number == 5 else "training"
        rows = [{"label": f"{'ab'[number % 2]}{m}", "segment": [0.2 + m, 1.1 + m]} for m in (0, 2)]
        database[f"v{number}"] = {"subset": subset, "duration": length / 10, "annotations": rows}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    sources = {stream: Path(seed) for stream, seed in SEEDS.items()}
    files = sorted((folder / "videos").iterdir())
    extract(files, list(SEEDS), folder / "store", CONFIG, sources)
    settings = [
        f'data.store="{folder / "store"}"',
        f'data.annotations="{folder / "annotations.json"}"',
    ]
    copy = {"adapter": {"maps": MAPS, "teacher": TG}, "train": {"steps": 2, "window_frames": 16}}
    adapt(load_table(AdapterConfig, copy, settings), folder / "adapter")
    single = {"model": SINGLE, "head": HEAD, "train": {"steps": 3, "lr": 1e-3, "ema": 0.5}}
    train(load_table(Experiment, single, settings), folder / "rgb")
    train(
        load_table(Experiment, single, [*settings, f'model.streams=["{TG}"]']), folder / "teacher"
    )
    student = single | {
        "model": {"kind": "decomposed", "appearance": RGB, "motion": MOTION, "dim": 8},
        "transfers": [{"kind": "response"}, {"kind": "feature"}],
        "teacher": {"run": str(folder / "teacher")},
        "data": {"label_fraction": 0.5, "unlabelled": True},
    }
    train(load_table(Experiment, student, settings), folder / "student")
    return folder


@pytest.fixture
def make(world: Path, tmp_path: Path) -> Make:
    def config(*overrides: str, run: str = "rgb", **options: Any) -> FinetuneConfig:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            "[data]\nmax_len = 12\n[train]\nsteps = 4\nbatch_size = 3\nlr = 1e-2\nema = 0.5\n"
            'warmup = 0.0\nlog_every = 2\ndevice = "cpu"\n[backbone]\nlr_scale = 0.1\n'
        )
        given = {"backbone.videos": [world / "videos"], **options}
        return load(recipe, world / run, overrides, given)

    return config


def trainer_of(config: FinetuneConfig, out: Path) -> EndToEndTrainer:
    base, sources = open_run(config, CPU), open_sources(config.experiment(), CPU)
    backbones = open_backbones(base, sources, config, CPU)
    frames = open_frames(config, sources, backbones, out)
    return make_trainer(config, sources, base, backbones, frames)


def state_of(path: Path) -> dict[str, Tensor]:
    return dict(checkpoint.load(path)["state_dict"])


def changed(run: Path, name: str = "backbone.pt", source: str = "random:0") -> set[str]:
    """The tensors of a backbone that fine-tuning has changed."""
    base, _ = weight_files.prepare("tsm_mini", "rgb", 3, Path(source))
    before = base.state_dict()
    return {key for key, value in state_of(run / name).items() if not value.equal(before[key])}


@pytest.mark.parametrize(("run", "streams"), [("rgb", [RGB]), ("student", [RGB, MOTION])])
@pytest.mark.parametrize("max_len", [7, 12, 64])
def test_training_starts_from_the_stored_features(
    run: str, streams: list[str], max_len: int, make: Make, tmp_path: Path
) -> None:
    trainer = trainer_of(make(f"data.max_len={max_len}", run=run), tmp_path)
    dataset = trainer.sources.dataset
    for epoch in range(3):
        samples = [dataset.window(index, epoch) for index in range(len(dataset))]
        batch = trainer.experiment.data.batch(samples)
        seen = see(trainer.backbones, trainer._frames, dataset.grid, batch)
        assert list(seen) == streams
        for stream in streams:
            assert seen[stream].requires_grad
            stored = batch.feats[stream]
            assert stored.abs().max() > 0.1
            # The copy's stored features went through maps in float32, so these agree as well.
            torch.testing.assert_close(seen[stream].detach(), stored, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "step_s"),
    [
        ({"halo_frames": 0}, 0.0),
        ({"halo_frames": 2, "pool_frames": 4}, 0.0),
        ({"pool_frames": 1}, 0.15),
        ({"dtype": "float16", "fps": 5.0}, 0.0),
    ],
)
def test_windows_are_cut_as_the_extraction_cuts(
    settings: dict[str, Any], step_s: float, world: Path, tmp_path: Path
) -> None:
    files = sorted((world / "videos").iterdir())
    extract(files, [RGB], tmp_path / "store", replace(CONFIG, **settings), {RGB: Path("random:0")})
    paths = [f'data.store="{tmp_path / "store"}"']
    paths += [f'data.annotations="{world / "annotations.json"}"']
    table: dict[str, Any] = {"model": SINGLE, "head": HEAD, "train": {"steps": 1}}
    table["data"] = {"step_s": step_s}
    train(load_table(Experiment, table, paths), tmp_path / "run")
    (tmp_path / "recipe.toml").write_text('[data]\nvalidation_subset = "validation"\n')
    options = {"backbone.videos": [world / "videos"]}
    config = load(tmp_path / "recipe.toml", tmp_path / "run", [], options)
    trainer = trainer_of(config, tmp_path)
    grid = trainer.sources.dataset.grid
    fresh = FreshGrid(grid, trainer.backbones, trainer._frames)
    tolerance = 2e-3 if "dtype" in settings else 2e-5
    for epoch, max_len in enumerate((5, 9)):
        dataset = trainer.sources.dataset
        dataset.config = replace(dataset.config, max_len=max_len)
        batch = dataset.config.batch([dataset.window(i, epoch) for i in range(len(dataset))])
        seen = see(trainer.backbones, trainer._frames, grid, batch)[RGB]
        torch.testing.assert_close(seen.detach(), batch.feats[RGB], atol=tolerance, rtol=1e-3)
    for video in (*dataset.videos, "v5"):
        for start, stop in ((0, None), (2, 3), (1, 6)):
            ours, stored = (g.read(video, start, stop)[RGB] for g in (fresh, grid))
            np.testing.assert_allclose(ours, stored, atol=tolerance, rtol=1e-3)


def test_batch_norms_stay_and_everything_else_learns(make: Make, tmp_path: Path) -> None:
    finetune(make(), tmp_path / "run")
    network, _ = weight_files.prepare("tsm_mini", "rgb", 3, Path("random:0"))
    norms = {
        f"{name}.{key}"
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for key in module.state_dict()
    }
    assert changed(tmp_path / "run") == set(network.state_dict()) - norms


def test_stages_below_the_first_trained_one_get_no_gradient(make: Make, tmp_path: Path) -> None:
    config = make("backbone.from_stage=layer3")
    trainer = trainer_of(config, tmp_path)
    dataset = trainer.sources.dataset
    batch = config.data.batch([dataset.window(0, 0)])
    see(trainer.backbones, trainer._frames, dataset.grid, batch)[RGB].sum().backward()
    graded = {n for n, p in trainer.backbones.named_parameters() if p.grad is not None}
    stage = {"conv1.weight", "conv2.weight", "down.weight"}
    assert graded == {f"networks.{RGB}.layer3.{name}" for name in stage}
    finetune(config, tmp_path / "run")
    assert changed(tmp_path / "run") == {f"layer3.{name}" for name in stage}


def test_the_backbone_learns_at_its_share(make: Make, tmp_path: Path) -> None:
    trainer = trainer_of(make(), tmp_path)
    rates = {
        id(parameter): group["lr_scale"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    trained = [p for p in trainer.backbones.parameters() if p.requires_grad]
    assert len(trained) == 10 and {rates[id(p)] for p in trained} == {0.1}
    mine = {id(p) for p in trainer.backbones.parameters()}
    rest = [p for p in trainer.model.parameters() if id(p) not in mine]
    assert {rates[id(p)] for p in rest} == {1.0} and len(rates) == len(rest) + 10


@pytest.mark.parametrize("run", ["rgb", "student"])
def test_a_stopped_run_ends_with_the_same_weights(
    run: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make('data.validation_subset="validation"', "model.noise=0.0", run=run)
    finetune(config, tmp_path / "whole")
    learn = EndToEndTrainer._learn

    def learn_then_signal(self: EndToEndTrainer, *args: Any) -> None:
        learn(self, *args)
        if self.step == 3:
            monkeypatch.setattr(console, "_stop_signal", 10)

    with monkeypatch.context() as patch:
        patch.setattr(EndToEndTrainer, "_learn", learn_then_signal)
        with pytest.raises(Interrupted, match="step 3 of 4 is saved"):
            finetune(config, tmp_path / "stopped")
    monkeypatch.setattr(console, "_stop_signal", None)
    assert not (tmp_path / "stopped/model.pt").exists()
    finetune(config, tmp_path / "stopped")
    for name in sorted(p.name for p in (tmp_path / "whole").glob("backbone*.pt")):
        ours, theirs = (state_of(tmp_path / out / name) for out in ("whole", "stopped"))
        assert all(ours[key].equal(theirs[key]) for key in ours)
    ours, theirs = (checkpoint.load(tmp_path / o / "model.pt") for o in ("whole", "stopped"))
    assert all(ours["weights"][key].equal(theirs["weights"][key]) for key in ours["weights"])
    histories = []
    for out in ("whole", "stopped"):
        lines = (tmp_path / out / "history.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        histories.append([{k: v for k, v in r.items() if k != "steps_per_s"} for r in rows])
    assert histories[0] == histories[1]
    assert [row["step"] for row in histories[0] if "validation_mAP" in row] == [0, 4]


def test_computing_stages_twice_gives_the_same_weights(make: Make, tmp_path: Path) -> None:
    finetune(make(), tmp_path / "kept")
    finetune(make("backbone.checkpointing=true"), tmp_path / "again")
    assert changed(tmp_path / "kept")
    ours, theirs = (state_of(tmp_path / out / "backbone.pt") for out in ("kept", "again"))
    assert all(ours[key].equal(theirs[key]) for key in ours)


def test_the_product_is_an_ordinary_run_and_an_ordinary_checkpoint(
    make: Make, world: Path, tmp_path: Path
) -> None:
    config = make('data.validation_subset="validation"')
    finetune(config, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "backbone.pt",
        "config.json",
        "history.jsonl",
        "last.pt",
        "model.pt",
    ]
    run = Run.load(tmp_path / "run", "cpu")
    files = sorted((world / "videos").iterdir())
    extract(files, [RGB], tmp_path / "store", CONFIG, {RGB: tmp_path / "run/backbone.pt"})
    store = Store.open(tmp_path / "store")
    assert store.stream(RGB).spec.hash == run.specs[RGB].hash == run.base_spec.hash
    found = predict(run, store, ["v5"])
    assert len(found)
    out = tmp_path / "found.json"
    args = [world / "videos/v5.mp4", "--model", tmp_path / "run", "--out", out, "--pictures", 0]
    ended = CliRunner().invoke(detect, [str(arg) for arg in args], standalone_mode=False)
    assert ended.exception is None, ended.exception
    written = json.loads(out.read_text())
    scores = [row["score"] for row in written["results"]["v5"]]
    np.testing.assert_allclose(scores, found["score"], atol=1e-5)
    provenance = written["provenance"]
    assert provenance["features"] == "fine-tuned"
    assert provenance["started_from"]["weights"] == Run.load(world / "rgb", "cpu").weights_hash
    tuned = provenance["pretraining"][RGB]["fine_tuned"]
    assert tuned["from"]["seed"] == 0 and tuned["recipe"]["lr_scale"] == 0.1
    assert tuned["recipe"]["seed"] == 0 and tuned["steps"] == 4
    # The folder may move.
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    args[args.index(tmp_path / "run")] = moved
    ended = CliRunner().invoke(detect, [str(arg) for arg in args], standalone_mode=False)
    assert ended.exception is None, ended.exception
    # The old store's features are no longer what the detector reads.
    with pytest.raises(UserError, match="is not what .* was trained on: weights"):
        predict(run, Store.open(world / "store"))


def test_a_fine_tuned_run_can_be_tuned_on(make: Make, world: Path, tmp_path: Path) -> None:
    finetune(make(), tmp_path / "run")
    files = sorted((world / "videos").iterdir())
    extract(files, [RGB], tmp_path / "store", CONFIG, {RGB: tmp_path / "run/backbone.pt"})
    options = {"backbone.videos": [world / "videos"], "data.store": tmp_path / "store"}
    again = load(tmp_path / "recipe.toml", tmp_path / "run", [], options)
    finetune(again, tmp_path / "again")
    spec = Run.load(tmp_path / "again", "cpu").specs[RGB]
    assert spec.weights["fine_tuned"]["from"]["fine_tuned"]["from"]["seed"] == 0


def test_a_copy_keeps_its_own_last_stage_on_the_common_trunk(
    make: Make, world: Path, tmp_path: Path
) -> None:
    finetune(make(run="student"), tmp_path / "run")
    rgb, motion = (
        state_of(tmp_path / "run" / name) for name in ("backbone.pt", "backbone+motion.pt")
    )
    before = state_of(world / "adapter/adapter.pt")
    assert {key for key in rgb if not rgb[key].equal(motion[key])} >= {
        f"layer3.{name}.weight" for name in ("conv1", "conv2", "down", "bn1", "bn2")
    }
    assert all(rgb[key].equal(motion[key]) for key in rgb if not key.startswith("layer3."))
    assert not motion["layer3.conv1.weight"].equal(before["layer3.conv1.weight"])
    assert motion["layer3.bn1.weight"].equal(before["layer3.bn1.weight"])
    assert changed(tmp_path / "run") >= {"stem.weight", "layer3.conv1.weight"}
    names = {RGB: "backbone.pt", MOTION: "backbone+motion.pt"}
    made = [Encoder(s, tmp_path / "run" / name, CONFIG, CPU) for s, name in names.items()]
    assert len(share(made)) == 1
    out = tmp_path / "found.json"
    args = [world / "videos/v5.mp4", "--model", tmp_path / "run", "--out", out, "--pictures", 0]
    ended = CliRunner().invoke(detect, [str(arg) for arg in args], standalone_mode=False)
    assert ended.exception is None, ended.exception
    assert json.loads(out.read_text())["results"]["v5"]


def test_lessons_go_on_where_the_run_left_them(
    make: Make, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(make(run="student"), tmp_path)
    saved = checkpoint.load(world / "student/last.pt")["objective"]
    ours = trainer.objective.state_dict()
    assert saved.keys() == ours.keys() and saved
    assert all(ours[key].equal(saved[key]) for key in saved)
    assert "lessons_begin_anew" not in capsys.readouterr().err
    shutil.copytree(world / "student", tmp_path / "student")
    (tmp_path / "student/last.pt").unlink()
    trainer_of(make(run=str(tmp_path / "student")), tmp_path)
    assert "event=lessons_begin_anew transfers=response,feature" in capsys.readouterr().err


def test_a_teacher_that_reads_the_same_stream_reads_what_is_stored(
    make: Make, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(make(run="student"), tmp_path)
    dataset = trainer.sources.dataset
    batch = trainer.experiment.data.batch([dataset.window(0, 0)])
    with torch.no_grad():
        for parameter in trainer.backbones.parameters():
            parameter.mul_(0.5)
    before = {name: feats.clone() for name, feats in batch.feats.items()}
    trainer._outputs(batch)
    assert all(before[name].equal(batch.feats[name]) for name in before)


def test_frames_are_decoded_once_and_kept_where_asked(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"backbone.frames": tmp_path / "frames"}
    finetune(make(**kept), tmp_path / "one")
    files = sorted((tmp_path / "frames").iterdir())
    stamps = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 5
    total = sum(37 + number for number in range(5))
    # An odd length counts as a whole last step.
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("event=frames"))
    assert f"videos=5 frames={total + 3}" in line
    finetune(make("train.seed=1", **kept), tmp_path / "two")
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert not (tmp_path / "one/frames").exists()


def test_a_finished_run_is_left_and_another_recipe_refused(make: Make, tmp_path: Path) -> None:
    finetune(make(), tmp_path / "run")
    before = (tmp_path / "run/backbone.pt").read_bytes()
    finetune(make(), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"backbone.lr_scale \(0.1 -> 0.2\)"):
        finetune(make("backbone.lr_scale=0.2"), tmp_path / "run")
    again = load(tmp_path / "run/config.json", None)
    assert again == make()
    finetune(again, tmp_path / "run", overwrite=True)
    assert (tmp_path / "run/backbone.pt").read_bytes() == before


def test_a_loss_that_is_no_number_ends_the_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = EndToEndTrainer._outputs

    def broken(self: EndToEndTrainer, batch: Any) -> Any:
        made = outputs(self, batch)
        made.joint.logits.data.fill_(float("nan"))
        return made

    monkeypatch.setattr(EndToEndTrainer, "_outputs", broken)
    with pytest.raises(UserError, match="step 0 .*not finite .*for the videos v"):
        finetune(make(), tmp_path / "run")
    assert not (tmp_path / "run/model.pt").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.from_stage=layer9"], "has the stages layer1, layer2, layer3, not 'layer9'"),
        (["backbone.lr_scale=0"], r"lr_scale must be in \(0, 1\]"),
        (["model.dim=16"], "model: differs from .*rgb, whose weights"),
        (["data.target_len=12"], "data.target_len: differs"),
        (["data.store=gone"], "no feature store"),
        (["data.subset=trainin"], "no subset 'trainin'"),
        (["backbone.videos=[]"], "backbone.videos: not set; .*--videos DIR"),
        (['backbone.videos=["gone"]'], "gone: no such file or folder"),
        (["train.lrr=1"], "train.lrr: no such setting"),
    ],
)
def test_what_does_not_fit_is_said(
    overrides: list[str], message: str, make: Make, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        options: dict[str, Any] = (
            {}
            if not overrides[0].startswith("backbone.videos")
            else {"backbone.videos": json.loads(overrides[0].partition("=")[2])}
        )
        finetune(make(*overrides, **options), tmp_path / "run")
    assert not (tmp_path / "run/model.pt").exists()


def test_missing_and_other_videos_are_named(make: Make, world: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    shutil.copytree(world / "videos", some)
    (some / "v3.mp4").unlink()
    with pytest.raises(UserError, match="1 of 5 videos are not there: v3"):
        finetune(make(**{"backbone.videos": [some]}), tmp_path / "run")
    shutil.copy(some / "v0.mp4", some / "v3.mp4")
    with pytest.raises(UserError, match="v3.mp4: is not the file that the features of v3 in"):
        finetune(make(**{"backbone.videos": [some]}), tmp_path / "run")
    (some / "v3.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="v3.mp4"):
        finetune(make(**{"backbone.videos": [some]}), tmp_path / "run")


def test_other_features_weights_labels_and_teachers_are_refused(
    make: Make, world: Path, tmp_path: Path, add_stream: Callable[..., Stream]
) -> None:
    files = sorted((world / "videos").iterdir())
    extract(files, [RGB], tmp_path / "store", CONFIG, {RGB: Path("random:7")})
    with pytest.raises(UserError, match="is not what .* was trained on: weights.seed: 7 here"):
        finetune(make(**{"data.store": tmp_path / "store"}), tmp_path / "run")
    with pytest.raises(UserError, match="random:3: did not make stream .*: weights.seed: 3 here"):
        finetune(make(**{"backbone.weights": {RGB: "random:3"}}), tmp_path / "run")
    with pytest.raises(UserError, match="gone.pt: the weights that made .*--weights tsm_mini:rgb="):
        finetune(make(**{"backbone.weights": {RGB: "gone.pt"}}), tmp_path / "run")
    with pytest.raises(UserError, match="gone: no model.pt in it"):
        finetune(make(run="student", **{"teacher.run": tmp_path / "gone"}), tmp_path / "run")
    facts = json.loads((world / "annotations.json").read_text())
    facts["database"]["v0"]["annotations"][0]["label"] = "new"
    (tmp_path / "labels.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="knows 4 labels, .*labels.json has 5"):
        finetune(make(**{"data.annotations": tmp_path / "labels.json"}), tmp_path / "run")
    add_stream(tmp_path / "made", "made:rgb", {f"v{i}": np.ones((20, 3)) for i in range(6)})
    paths = [f'data.store="{tmp_path / "made"}"']
    paths += [f'data.annotations="{world / "annotations.json"}"', 'model.streams=["made:rgb"]']
    table = {"model": SINGLE, "head": HEAD, "train": {"steps": 1}}
    train(load_table(Experiment, table, paths), tmp_path / "imported")
    make()
    options = {"backbone.videos": [world / "videos"]}
    config = load(tmp_path / "recipe.toml", tmp_path / "imported", [], options)
    with pytest.raises(UserError, match="made:rgb: was not extracted by this program"):
        finetune(config, tmp_path / "run")


def test_the_command_prints_the_folder(world: Path, tmp_path: Path) -> None:
    args = ["--preset", "world_finetune", "--run", world / "rgb", "--videos", world / "videos"]
    args += ["--out", tmp_path / "run", "--set", "train.steps=1", "--device", "cpu", "--seed", 3]
    args += ["--weights", f"{RGB}=random:0"]
    ended = CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)
    assert ended.exception is None, ended.exception
    assert ended.stdout == f"{tmp_path / 'run'}\n"
    provenance = Run.load(tmp_path / "run", "cpu").provenance
    assert (provenance["preset"], provenance["seed"]) == ("world_finetune", 3)


@pytest.mark.parametrize("name", ["finetune", "world_finetune"])
def test_a_preset_says_where_its_numbers_come_from(name: str, world: Path) -> None:
    from tad_distill.distill.finetune.config import PRESETS

    text = (PRESETS / f"{name}.toml").read_text().partition("[data]")[0]
    assert ("E2E-TAD" in text and "Ours" in text) or "CPU" in text
    config = load_preset(name, world / "rgb")
    assert config.preset == name and config.backbone.run == world / "rgb"
