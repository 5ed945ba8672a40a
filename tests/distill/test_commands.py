"""The command line of ``train``: options become settings, and mistakes are named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tad_distill.console import UsageError
from tad_distill.distill import train as loop
from tad_distill.distill.commands import train
from tad_distill.distill.config import Experiment

Call = tuple[Experiment, Path, bool]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    made: list[Call] = []
    monkeypatch.setattr(loop, "train", lambda *call: made.append(call))
    yield made


def run(*args: str) -> str:
    result = CliRunner().invoke(train, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_options_become_settings_and_win_over_the_rest(calls: list[Call]) -> None:
    out = run(
        *("--preset", "world_student", "--out", "runs/s", "--store", 'a "b"/c d', "--overwrite"),
        *("--annotations", "x.json", "--teacher", "runs/t", "--seed", "7", "--device", "cpu"),
        *("--set", "train.lr=2e-4", "--set", "train.seed=3", "--set", "head.window=[5]"),
    )
    assert out == "runs/s\n"
    [(experiment, folder, overwrite)] = calls
    assert (folder, overwrite) == (Path("runs/s"), True)
    assert experiment.preset == "world_student"
    assert experiment.data.store == Path('a "b"/c d')
    assert experiment.data.annotations == Path("x.json")
    assert experiment.teacher.run == Path("runs/t")
    assert (experiment.train.seed, experiment.train.device) == (7, "cpu")
    assert experiment.train.lr == 2e-4
    assert experiment.head.window == (5,)  # type: ignore[attr-defined]


def test_what_is_not_named_stays_as_the_preset_says(calls: list[Call]) -> None:
    run("--preset", "rgb", "--out", "r")
    [(experiment, _, overwrite)] = calls
    assert experiment.data.store is None and not overwrite
    assert experiment.train.seed == 0 and experiment.train.batch_size == 2


def test_a_file_of_ones_own_is_named_by_its_stem(calls: list[Call], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nstreams = ["a:rgb"]\n')
    run("--config", str(path), "--out", "r")
    assert calls[0][0].preset == "mine"


@pytest.mark.parametrize("which", [(), ("--preset", "rgb", "--config", "x.toml")])
def test_exactly_one_source_of_settings_is_asked_for(which: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="either --preset NAME .* or --config FILE"):
        run(*which, "--out", "r")


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="preset 'studnet': .*did you mean student"):
        run("--preset", "studnet", "--out", "r")


def test_the_backbone_of_every_stream_can_be_named(calls: list[Call]) -> None:
    run("--preset", "thumos_gtad/two_stream", "--backbone", "i3d", "--out", "r")
    run("--preset", "control", "--backbone", "tsm50", "--out", "r", "--set", "model.motion=a:rgb")
    (two_stream, *_), (control, *_) = calls
    assert two_stream.preset == "thumos_gtad/two_stream"
    assert two_stream.model.streams == ("i3d:rgb", "i3d:tg")
    assert (control.model.appearance, control.model.motion) == ("tsm50:rgb", "a:rgb")
    with pytest.raises(UsageError, match="--backbone goes with --preset"):
        run("--config", "run/config.json", "--backbone", "i3d", "--out", "r")


def test_the_presets_are_listed_without_training(calls: list[Call]) -> None:
    lines = run("--list").splitlines()
    assert not calls
    names = [line.split()[0] for line in lines]
    assert {"student", "thumos_tadtr", "anet_gtad_paper", "world_rgb"} <= set(names)
    assert next(line for line in lines if line.startswith("thumos_gtad ")).split("  ")[-1] == (
        "G-TAD's own recipe for THUMOS'14, class-agnostic, on two-stream features"
    )
