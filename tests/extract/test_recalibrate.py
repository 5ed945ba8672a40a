"""Recalibrated batch norms hold the statistics of the sample, the same in every run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from tad_distill import console
from tad_distill.console import Interrupted, UsageError, UserError
from tad_distill.data.store import Store
from tad_distill.extract.clip_sample import CLIP_FRAMES, chosen, sample
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import DecoderProcess
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.recalibrate import batch_norms, check, estimate, recalibrate
from tad_distill.extract.recalibrate_command import recalibrate as command
from tad_distill.extract.run import extract

RANDOM, CPU = Path("random:0"), torch.device("cpu")
CONFIG = ExtractConfig(short_side_px=32, crop_px=32, dtype="float32")
NUM_CLIPS = 5


@pytest.fixture
def files(tmp_path: Path, write_video: Callable[..., Path]) -> dict[str, Path]:
    random = np.random.default_rng(0)
    found = {}
    for name, length in (("a", 40), ("b", 90), ("c", 33)):
        frames = random.integers(0, 256, (length, 32, 48, 3), dtype=np.uint8)
        found[name] = write_video(tmp_path / f"{name}.mp4", list(frames))
    return found


def encoder(stream: str = "tsm_mini:tg", source: Path = RANDOM) -> Encoder:
    return Encoder(stream, source, CONFIG, CPU)


def test_clips_come_from_the_videos_in_turn_and_from_all_their_length(
    files: dict[str, Path],
) -> None:
    clips, failed = sample(files, encoder(), NUM_CLIPS)
    assert not failed and len(clips) == NUM_CLIPS
    # Of 40, 90 and 33 frames: 2, 2 and 1 clips, by turns; only one starts with its video.
    assert [len(clip.frames) for clip in clips] == [33, 33, 32, 33, 33]
    assert [clip.has_history for clip in clips] == [True, True, False, True, True]
    whole = {name: frames_of(path) for name, path in files.items()}
    for clip, name, start in zip(clips, "abcab", (2, 14, 0, 6, 43), strict=True):
        first = start - clip.has_history
        np.testing.assert_array_equal(clip.frames, whole[name][first : start + CLIP_FRAMES])


def test_a_video_shorter_than_a_clip_gives_all_that_it_has(
    files: dict[str, Path], tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    random = np.random.default_rng(1)
    frames = list(random.integers(0, 256, (20, 32, 48, 3), dtype=np.uint8))
    made, short = encoder(), write_video(tmp_path / "short.mp4", frames)
    clips, failed = sample({"short": short, "a": files["a"]}, made, 4)
    multiple = made.backbone.multiple_frames
    assert not failed and [clip.length for clip in clips] == [20 // multiple * multiple, 32, 32]
    moments = estimate(made, clips)["stem_bn"]
    width = 16 * 16  # of the stem's output, both ways
    assert moments._count == sum(clip.length for clip in clips) * width


def test_a_video_that_claims_more_frames_than_it_has_gives_its_last(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = DecoderProcess.claims
    monkeypatch.setattr(
        DecoderProcess, "claims", lambda self, path: replace(claims(self, path), duration_s=1000.0)
    )
    clips, failed = sample({"b": files["b"]}, encoder(), 1)
    assert not failed and len(clips) == 1
    whole = frames_of(files["b"])
    np.testing.assert_array_equal(clips[0].frames, whole[-len(clips[0].frames) :])


def test_a_video_shorter_than_a_snippet_is_named_with_the_reason(files: dict[str, Path]) -> None:
    config = replace(CONFIG, regime="snippet", clip_frames=64)
    made = Encoder("tsm_mini:tg", RANDOM, config, CPU)
    clips, failed = sample({"a": files["a"], "b": files["b"]}, made, 2)
    assert failed == {"a": "has 40 frames, a clip takes at least 64"}
    assert [clip.length for clip in clips] == [64]


def frames_of(path: Path) -> np.ndarray:
    from tad_distill.extract.geometry import Fit
    from tad_distill.extract.video import Decoder

    return np.concatenate(list(Decoder(path, fit=Fit(CONFIG.framing()))))


@torch.inference_mode()
def test_the_first_norm_gets_mean_and_variance_of_all_that_it_is_shown(
    files: dict[str, Path], tmp_path: Path
) -> None:
    made = encoder()
    clips, _ = sample(chosen(files, NUM_CLIPS), made, NUM_CLIPS)
    backbone, shown = made.backbone, []
    for clip in clips:
        frames = made.modality(clip.frames, clip.has_history).unsqueeze(0)
        shown.append(backbone.get_submodule("stem")(frames).movedim(1, 0).flatten(1).double())
    expected = torch.cat(shown, 1)
    recalibrate(files, made, tmp_path / "w.pt", NUM_CLIPS)
    state = torch.load(tmp_path / "w.pt", weights_only=True)["state_dict"]
    torch.testing.assert_close(state["stem_bn.running_mean"].double(), expected.mean(1))
    torch.testing.assert_close(state["stem_bn.running_var"].double(), expected.var(1, correction=0))


@torch.inference_mode()
def test_norms_give_nearly_mean_0_and_variance_1_afterwards(
    files: dict[str, Path], tmp_path: Path
) -> None:
    made = encoder()
    clips, _ = sample(chosen(files, NUM_CLIPS), made, NUM_CLIPS)
    shown = torch.cat(
        [made.modality(clip.frames, clip.has_history).unsqueeze(0) for clip in clips[:2]]
    )

    def spread(network: nn.Module) -> list[float]:
        found: list[float] = []

        def tell(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found.append(float(output.std()))

        for norm in batch_norms(network).values():
            norm.register_forward_hook(tell)
        network(shown)
        return found

    before = spread(encoder().backbone)
    recalibrate(files, made, tmp_path / "w.pt", NUM_CLIPS)
    after = spread(encoder(source=tmp_path / "w.pt").backbone)
    assert max(abs(std - 1) for std in after) < 0.1 < max(abs(std - 1) for std in before)


def test_all_but_the_statistics_stays_and_two_runs_give_the_same_bytes(
    files: dict[str, Path], tmp_path: Path
) -> None:
    old = {name: value.clone() for name, value in encoder().backbone.state_dict().items()}
    recalibrate(files, encoder(), tmp_path / "one.pt", NUM_CLIPS)
    backwards = dict(reversed(files.items()))
    recalibrate(backwards, encoder(), tmp_path / "two.pt", NUM_CLIPS)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()
    new = torch.load(tmp_path / "one.pt", weights_only=True)["state_dict"]
    changed = {name.rpartition(".")[2] for name in old if not torch.equal(old[name], new[name])}
    assert old.keys() == new.keys() and changed == {"running_mean", "running_var"}


def test_estimating_leaves_the_network_as_it_was(files: dict[str, Path]) -> None:
    made = encoder()
    old = {name: value.clone() for name, value in made.backbone.state_dict().items()}
    estimate(made, sample(files, made, NUM_CLIPS)[0])
    assert all(torch.equal(old[name], it) for name, it in made.backbone.state_dict().items())
    assert not any(module.training for module in made.backbone.modules())


def test_features_tell_which_statistics_they_were_made_with(
    files: dict[str, Path], tmp_path: Path
) -> None:
    recalibrate(files, encoder(), tmp_path / "w.pt", NUM_CLIPS)
    source = {"tsm_mini:tg": tmp_path / "w.pt"}
    extract([files["a"]], ["tsm_mini:tg"], tmp_path / "s", CONFIG, source)
    spec = Store.open(tmp_path / "s").stream("tsm_mini:tg").spec
    assert spec.weights["layout"] == "tad-distill" and spec.weights["sha256"]
    notes = spec.weights["pretraining"]["recalibration"]
    assert (notes["asked_clips"], notes["num_videos"], notes["base"]["seed"]) == (5, 3, 0)
    with pytest.raises(UserError, match="made with other settings"):
        extract([files["a"]], ["tsm_mini:tg"], tmp_path / "s", CONFIG, {"tsm_mini:tg": RANDOM})


def test_the_same_again_does_nothing_and_something_else_is_refused(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.pt"
    recalibrate(files, encoder(), out, NUM_CLIPS)
    first = out.read_bytes()
    recalibrate(files, encoder(), out, NUM_CLIPS)
    assert "event=recalibrated_before" in capsys.readouterr().err and out.read_bytes() == first
    with pytest.raises(UserError, match="holds weights of other videos or settings"):
        recalibrate({"a": files["a"]}, encoder(), out, NUM_CLIPS)
    with pytest.raises(UserError, match="holds weights of other videos or settings"):
        recalibrate(files, encoder(source=Path("random:1")), out, NUM_CLIPS)


def test_a_signal_writes_nothing(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_stop_signal", 15)
    with pytest.raises(Interrupted, match="nothing was written"):
        recalibrate(files, encoder(), tmp_path / "w.pt", NUM_CLIPS)
    assert not (tmp_path / "w.pt").exists()


def test_the_command_names_bad_videos_and_says_so_by_its_exit_code(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = tmp_path / "bad.mp4", tmp_path / "w.pt"
    bad.write_text("not a video")
    settings = ("--set", "short_side_px=32", "--set", "crop_px=32", "--clips", "5")
    common = ("--stream", "tsm_mini:tg", "--weights", "random:0", "--out", str(out), *settings)

    def run(*videos: Path) -> int:
        arguments = [*map(str, videos), *common]
        return int(command.main(arguments, standalone_mode=False))

    with pytest.raises(UserError, match=r"bad.mp4: .*; none of 1 videos can be used"):
        run(bad)
    assert not out.exists()
    assert run(*files.values(), bad) == 1
    notes = torch.load(out, weights_only=True)["pretraining"]["recalibration"]
    assert notes["without"] == ["bad"]
    assert capsys.readouterr().out == f"{out}\n"
    assert CliRunner().invoke(command, ["--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("stream", "settings", "message"),
    [
        ("tsm_mini:tg-flip", {}, "name tsm_mini:tg"),
        ("tsm_mini:tg.rich", {}, "name tsm_mini:tg"),
        ("tsm_mini:tg@layer2", {}, "name tsm_mini:tg"),
        ("tsm_mini:tg", {"crop_px": 0}, "frames of one size; set crop_px"),
    ],
)
def test_what_cannot_be_sampled_is_refused(
    stream: str, settings: dict[str, int], message: str
) -> None:
    config = ExtractConfig(**{**vars(CONFIG), **settings})
    with pytest.raises(UsageError, match=message):
        check(Encoder(stream, RANDOM, config, CPU), config)


@pytest.mark.usefixtures("light")
def test_a_network_without_batch_norm_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="light: has no batch norm"):
        recalibrate(files, encoder("light:rgb"), tmp_path / "w.pt", NUM_CLIPS)
