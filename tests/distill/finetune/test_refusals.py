"""Fine-tuning says what does not fit, and how it is called."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from finetuning import CONFIG, HEAD, RGB, SINGLE, Make

from tad_distill.config import ConfigError
from tad_distill.config import load as load_table
from tad_distill.console import UserError
from tad_distill.data.store import Stream
from tad_distill.distill.config import Experiment
from tad_distill.distill.finetune.command import finetune as command
from tad_distill.distill.finetune.config import load, load_preset
from tad_distill.distill.finetune.loop import EndToEndTrainer
from tad_distill.distill.finetune.run import finetune
from tad_distill.distill.predict import Run
from tad_distill.distill.train import train
from tad_distill.extract.run import extract


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
