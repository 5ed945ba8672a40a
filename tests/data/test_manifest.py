"""The list of videos that a store is to hold."""

from pathlib import Path

import pytest

from tad_distill.console import UserError
from tad_distill.data import manifest
from tad_distill.data.manifest import Listed


def test_a_list_comes_back_as_it_was_written(tmp_path: Path) -> None:
    videos = {
        'b, "quoted"': Listed(
            path="/v/b.mp4", num_bytes=7, modified_ns=2**62, duration_s=0.1 + 0.2, num_frames=9
        ),
        "a\udcff": Listed(
            path="a\udcff.mp4", num_bytes=0, modified_ns=0, duration_s=None, num_frames=None
        ),
    }
    assert manifest.read(tmp_path) == {}
    manifest.write(tmp_path, videos)
    assert manifest.read(tmp_path) == videos
    manifest.write(tmp_path, {})
    assert manifest.read(tmp_path) == {}


@pytest.mark.parametrize(
    "text",
    ["", "video,path\n", ",".join(manifest.COLUMNS) + "\na,b\n"]
    + [",".join(manifest.COLUMNS) + "\na,b,many,0,,\n"],
)
def test_another_file_is_refused_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / manifest.NAME).write_text(text)
    with pytest.raises(UserError, match=r"videos\.csv: not a list of videos .*delete it"):
        manifest.read(tmp_path)
