"""What videos claim is asked once, and the work is shared out by it."""

import shutil
from pathlib import Path

import pytest

from tad_distill import console
from tad_distill.console import Interrupted
from tad_distill.data import manifest
from tad_distill.data.manifest import Listed
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import DecoderProcess
from tad_distill.extract.sources import by_name
from tad_distill.extract.survey import expected_frames, share, survey
from tad_distill.extract.video import VideoFacts
from tad_distill.units import Unit

CONFIG = ExtractConfig()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the videos that were opened."""
    names, claims = list[str](), DecoderProcess.claims

    def noted(self: DecoderProcess, path: Path) -> VideoFacts:
        names.append(path.stem)
        return claims(self, path)

    monkeypatch.setattr(DecoderProcess, "claims", noted)
    return names


def test_every_video_is_opened_once_and_again_when_it_changes(
    videos: list[Path], tmp_path: Path, asked: list[str]
) -> None:
    files, store = by_name(videos), tmp_path / "s"
    found = survey(files, store, CONFIG)
    assert {v: (f.num_frames, f.duration_s) for v, f in found.items()} == {
        "long": (50, 5.0),
        "middle": (40, 4.0),
        "single": (1, 0.1),
    }
    assert manifest.read(store) == found
    asked.clear()
    assert survey(files, store, CONFIG) == found and not asked
    shutil.copy(videos[0], videos[1])
    assert survey(files, store, CONFIG)["middle"].num_frames == 50
    assert asked == ["middle"]


def test_the_list_is_extended_and_bad_files_claim_nothing(
    videos: list[Path], tmp_path: Path
) -> None:
    store, bad = tmp_path / "s", tmp_path / "bad.mp4"
    bad.write_text("no video")
    survey(by_name(videos[:1]), store, CONFIG)
    found = survey(by_name([bad, tmp_path / "gone.mp4"]), store, CONFIG)
    assert [f.duration_s for f in found.values()] == [None, None]
    assert [f.num_bytes for f in found.values()] == [8, 0]
    assert manifest.read(store).keys() == {"long", "bad", "gone"}


def test_a_signal_ends_it_with_nothing_written(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_stop_signal", 15)
    with pytest.raises(Interrupted, match="nothing was extracted"):
        survey(by_name(videos), tmp_path / "s", CONFIG)
    assert not manifest.read(tmp_path / "s")


def listed(duration_s: float | None, num_bytes: int, num_frames: int | None = None) -> Listed:
    return Listed(
        path="v", num_bytes=num_bytes, modified_ns=0, duration_s=duration_s, num_frames=num_frames
    )


def test_units_are_even_in_duration_and_unknown_ones_count_by_size() -> None:
    videos = {
        "a": listed(60.0, 600),
        "b": listed(30.0, 300),
        "c": listed(None, 400),  # 40 s at 10 bytes a second
        "d": listed(10.0, 100),
    }
    assert [share(videos, Unit(n, 2)) for n in (0, 1)] == [["a", "d"], ["b", "c"]]
    assert share({"x": listed(None, 5)}, Unit(0, 1)) == ["x"]


def test_frames_are_counted_at_the_rate_that_is_asked_for() -> None:
    videos = {"a": listed(2.0, 1, 60), "b": listed(None, 1, 7), "c": listed(None, 1)}
    assert expected_frames(videos, 10) == {"a": 20, "b": 7, "c": 0}
    assert expected_frames(videos, None) == {"a": 60, "b": 7, "c": 0}
