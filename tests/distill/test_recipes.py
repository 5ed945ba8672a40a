"""Presets of a data set and a head: official numbers, all backbones, all rows, what they need."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tad_distill import config as settings
from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.data.grid import Grid
from tad_distill.data.store import Store, Stream
from tad_distill.distill import recipes
from tad_distill.distill.config import PRESETS, Experiment, load_preset
from tad_distill.distill.heads import actionformer, gtad, tadtr
from tad_distill.distill.matching import MatchWeights
from tad_distill.distill.model import Decomposed, Single, build
from tad_distill.distill.predict import Run, predict
from tad_distill.distill.train import train
from tad_distill.extract.config import PRESETS as EXTRACTION

HEADS = settings.members("tad_distill.distill.heads")
OFFICIAL = [f"{data}_{head}" for data in ("anet", "thumos") for head in HEADS]
PAPER = [f"{name}_paper" for name in OFFICIAL]
RECIPES = sorted(OFFICIAL + PAPER)
ROWS = ["conventional", "control", "rgb", "student", "teacher", "two_stream", "adapter_student"]
# Width, frames per step: at 10 frames per second, as extract makes them.
BACKBONES = {"tsm18": (512, 1), "tsm50": (2048, 1), "i3d": (1024, 8), "slowfast50_4x16": (2304, 4)}
# Small enough to train for a step.
SIZES = {
    "actionformer": ("head.embd_dim=16", "head.arch=[1,1,2]", "head.window=[5]", "head.max_len=32"),
    "tadtr": (
        "head.hidden_dim=16",
        "head.num_heads=2",
        "head.norm_groups=4",
        "head.num_queries=6",
        "head.num_encoder_layers=1",
        "head.num_decoder_layers=2",
        "head.feedforward_dim=16",
    ),
    "gtad": (
        "head.embd_dim=16",
        "head.embd_groups=1",
        "head.graph_width=16",
        "head.graph_groups=4",
        "head.align_dim=16",
        "head.map_dim=16",
        "head.max_duration=8",
    ),
}


def head_of(name: str) -> str:
    return name.split("_")[1]


def teacher_of(row: str) -> list[str]:
    taught = row in ("student", "conventional", "adapter_student")
    return ["teacher.run=runs/teacher"] * taught


def test_there_is_a_recipe_for_every_data_set_and_head() -> None:
    there = {path.stem for path in PRESETS.glob("*.toml")}
    assert {name for name in there if name.startswith(("thumos", "anet"))} == set(RECIPES)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_built_for_every_backbone(name: str, backbone: str) -> None:
    experiment = load_preset(name, backbone=backbone)
    assert type(experiment.head).__module__.endswith(f".{head_of(name)}")
    width, _ = BACKBONES[backbone]
    assert {stream.partition(":")[0] for stream in experiment.model.streams} == {backbone}
    dims = dict.fromkeys(experiment.model.all_streams, width)
    with torch.device("meta"):
        model = build(experiment.model, experiment.head, experiment.fusion, dims, 20)
    assert isinstance(model, Single)
    # The official heads read the features themselves; the paper's model projects them.
    widths = {True: 512, False: sum(dims.values())}
    assert model.widths == {"joint": widths[name in PAPER]}
    assert experiment.data.standardise == (name in PAPER)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_row_can_be_had_with_every_recipe(name: str, row: str) -> None:
    recipe = load_preset(name)
    experiment = load_preset(f"{name}/{row}", teacher_of(row))
    alone = load_preset(row, teacher_of(row))
    assert experiment.preset == f"{name}/{row}"
    for part in ("head", "nms", "predict", "train", "needs"):
        assert getattr(experiment, part) == getattr(recipe, part)
    agnostic = recipe.model.class_agnostic
    assert experiment.model == replace(alone.model, class_agnostic=agnostic)
    assert (experiment.fusion, experiment.transfers) == (alone.fusion, alone.transfers)
    assert experiment.data == replace(
        recipe.data, standardise=alone.data.standardise, unlabelled=alone.data.unlabelled
    )
    dims = dict.fromkeys(experiment.model.all_streams, 512)
    with torch.device("meta"):
        model = build(experiment.model, experiment.head, experiment.fusion, dims, 20)
    decomposed = ("student", "control", "adapter_student")
    assert isinstance(model, Decomposed if row in decomposed else Single)


def test_a_row_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="preset 'studen': no such preset; did you mean student"):
        load_preset("thumos_gtad/studen")
    with pytest.raises(ConfigError, match="preset 'thumos_gtat': no such .* mean thumos_gtad"):
        load_preset("thumos_gtat/student")
    (tmp_path / "a.toml").write_text("[model]\nstreams = ['a:rgb']\n")
    (tmp_path / "b.toml").write_text("[train]\nlr = 1.0\n")
    with pytest.raises(ConfigError, match="says nothing about a model"):
        recipes.read(tmp_path, "a/b")


def test_official_heads_for_thumos_are_the_defaults_of_the_heads() -> None:
    """These are held against the official code in the heads' own tests."""
    assert load_preset("thumos_actionformer").head == actionformer.Config()
    assert load_preset("thumos_tadtr").head == tadtr.Config(
        padding="unmasked", actionness_target="batch"
    )
    assert load_preset("thumos_gtad").head == gtad.Config(padding="official", overlap_shift=0.4)


def test_official_heads_for_activitynet_differ_where_their_files_do() -> None:
    assert load_preset("anet_actionformer").head == actionformer.Config(
        embd_dim=256,
        window=(7, 7, 7, 7, 7, -1),
        positions="absolute",
        max_len=192,
        loss_normalizer=200.0,
        loss_weight=2.0,
        label_smoothing=0.1,
        decode_min_steps=0.001,
    )
    assert load_preset("anet_tadtr").head == tadtr.Config(
        num_encoder_layers=2, feedforward_dim=2048, num_queries=50, match=MatchWeights(label=2.0)
    )
    assert load_preset("anet_gtad").head == gtad.Config(
        bins=(32, 4),
        map_kernel=1,
        max_duration=100,
        anchor_offset=-0.5,
        padding="official",
        reg_weight=10.0,
        cls_weight=1.0,
        extra_positives=0.0,
        boundary_slot=2.0,
        decode_boundaries="filter",
        decode_to_end=True,
        decode_below_steps=101.0,
    )


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipe_is_adam_for_twenty_epochs_on_its_losses(name: str) -> None:
    experiment = load_preset(name)
    recipe = experiment.train
    assert (recipe.optimizer, recipe.lr, recipe.epochs) == ("adam", 1e-4, 20)
    assert experiment.head.loss_style == "paper"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "epochs", "drop"),
    [("thumos_tadtr", 16, 14), ("thumos_gtad", 10, 5), ("anet_gtad", 10, 5)],
)
def test_the_rate_drops_after_the_official_epoch(name: str, epochs: int, drop: int) -> None:
    recipe, per_epoch = load_preset(name).train, 203
    assert recipe.schedule == "step" and recipe.drop_factor == 0.1 and recipe.warmup == 0
    assert recipe.num_steps(per_epoch) == epochs * per_epoch
    [share] = recipe.drop_at
    assert round(share * recipe.num_steps(per_epoch)) == drop * per_epoch


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("thumos")])
def test_a_window_lasts_as_long_for_every_backbone(
    name: str, backbone: str, tmp_path: Path, add_stream: Callable[..., Stream]
) -> None:
    data, predict_as = load_preset(name).data, load_preset(name).predict
    _, stride = BACKBONES[backbone]
    spec = {"clip_frames": stride, "stride_frames": stride, "offset_frames": stride / 2}
    feats = {"v": np.zeros((800 // stride, 2), np.float32)}
    stream = add_stream(tmp_path, f"{backbone}:rgb", feats, fps=10.0, **spec)
    grid = Grid({stream.name: stream}, stream, data.target_len, step_s=data.step_s)
    # 80 s of video; steps of the official features, or 256 frames at 10 per second (25.6 s).
    steps = {"actionformer": 4 / 30, "tadtr": 8 / 30, "gtad": 5 / 30}
    step_s = 0.1 if name in PAPER else steps[head_of(name)]
    assert grid.timeline("v").step_s == pytest.approx(step_s)
    assert grid.num_steps("v") == pytest.approx(80 / step_s, abs=1)
    if name in PAPER:
        assert data.max_len * step_s == pytest.approx(25.6)
    if name != "thumos_actionformer":  # which reads whole videos
        assert predict_as.window == data.max_len


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_where_its_numbers_come_from(name: str) -> None:
    text = (PRESETS / f"{name}.toml").read_text()
    head = " ".join(line.removeprefix("# ") for line in text.split("[data]")[0].splitlines())
    assert "not measured here" in head.lower() and "From " in head and "Ours" in head
    assert ("Lee et al., CVPR 2023" in head) == (name in PAPER)
    assert f"{name}/student" in head and "--backbone" in head
    assert all(len(line) <= 100 for line in text.split("[needs]")[0].splitlines())


@pytest.mark.parametrize("name", RECIPES)
def test_the_features_of_a_recipe_can_be_extracted(name: str) -> None:
    experiment = load_preset(name)
    [preset] = re.findall(r"extract (?:VIDEOS )?--preset (\w+)", experiment.needs.features)
    assert (EXTRACTION / f"{preset}.toml").is_file()
    assert all(f"--stream {s}" in experiment.needs.features for s in experiment.model.streams)


def lacking(name: str, *overrides: str) -> str:
    """What is said when this is all that is given."""
    with pytest.raises(UserError) as caught:
        train(load_preset(name, overrides), Path("nowhere"))
    assert not Path("nowhere").exists()
    return str(caught.value)


@pytest.mark.parametrize("name", [*RECIPES, "thumos_tadtr/rgb"])
def test_a_recipe_says_at_once_what_it_lacks_and_where_that_is(
    name: str, tmp_path: Path, signal_world: Path
) -> None:
    needs = load_preset(name).needs
    store = f'data.store="{signal_world / "store"}"'
    annotations = f'data.annotations="{signal_world / "annotations.json"}"'
    assert lacking(name) == (
        f"data.store: not set; name it with --store PATH (preset {name}: {needs.features})"
    )
    assert lacking(name, store) == (
        "data.annotations: not set; name it with --annotations PATH "
        f"(preset {name}: {needs.annotations})"
    )
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"class": ["jump"], "results": {"v": [1.0]}}))
    named = f'predict.external_scores="{scores}"'
    if load_preset(name).model.class_agnostic:
        said = lacking(name, store, annotations)
        assert said.startswith("predict.external_scores: not set") and needs.scores in said
        assert "no stream" in lacking(name, store, annotations, "needs.scores=")
    streams = lacking(name, store, annotations, named)
    assert "no stream" in streams and f"(preset {name}: {needs.features})" in streams
    other = json.loads((signal_world / "annotations.json").read_text())
    for video in other["database"].values():
        video["subset"] = "other"
    (tmp_path / "other.json").write_text(json.dumps(other))
    moved = f'data.annotations="{tmp_path / "other.json"}"'
    said = lacking(name, store, moved, named, 'model.streams=["made:rgb"]')
    subset = load_preset(name).data.subset
    assert f"no subset '{subset}'; subsets there are: other; name another with" in said
    assert f"--set data.subset=NAME (preset {name}: {needs.annotations})" in said


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_detects(name: str, tmp_path: Path, signal_world: Path) -> None:
    small = ["data.subset=training", "data.test_subset=test", "train.steps=2", "model.dim=8"]
    small += ["train.batch_size=4", "train.log_every=2"]
    small += ['model.streams=["made:rgb"]', *SIZES[head_of(name)]]
    small += [f'data.{key}="{signal_world / file}"' for key, file in FILES.items()]
    if name.startswith("thumos"):
        small += ["data.step_s=0.25", "data.max_len=24", "predict.window=24", "predict.overlap=6"]
    else:
        small += ["data.target_len=32", "data.max_len=32"]
    scores = tmp_path / "scores.json"
    labels = json.loads((signal_world / "annotations.json").read_text())["database"]
    known = sorted({a["label"] for video in labels.values() for a in video["annotations"]})
    scores.write_text(
        json.dumps({"class": known, "results": dict.fromkeys(labels, [0.5, 0.3, 0.2])})
    )
    small += [f'predict.external_scores="{scores}"'] * load_preset(name).model.class_agnostic
    train(load_preset(name, small), tmp_path / "run")
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").open()]
    assert history[-1]["step"] == 2 and np.isfinite(history[-1]["loss"])
    run = Run.load(tmp_path / "run", "cpu")
    found = predict(run, Store.open(signal_world / "store"), ["v30"])
    assert set(found["video"]) <= {"v30"} and set(found["label"]) <= set(known)
    assert (found["end_s"] > found["start_s"]).all()


FILES = {"store": "store", "annotations": "annotations.json"}


def test_the_list_has_a_line_for_each_and_none_without_a_data_set_comes_late() -> None:
    rows = list(recipes.headings(PRESETS))
    assert {name for name, _ in rows} == {path.stem for path in PRESETS.glob("*.toml")}
    assert all(10 < len(about) < 160 and "(" not in about for _, about in rows)
    first = [name for name, _ in rows if name.split("_")[0] not in recipes.DATA_SETS]
    assert [name for name, _ in rows][: len(first)] == first


def test_a_preset_of_ones_own_keeps_what_it_needs_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nstreams = ["a:rgb"]\n')
    experiment = settings.build(Experiment, settings.read(path))
    with pytest.raises(ConfigError, match=r"name it with --store PATH$"):
        train(experiment, tmp_path / "run")
