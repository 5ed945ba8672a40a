"""Files of detections: what is written is read again; every fault is named."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tad_distill.console import LONGEST, UserError
from tad_distill.evaluate import detections as files

NAN, INF = float("nan"), float("inf")


def found(**changes: Any) -> dict[str, Any]:
    return {"label": "Jump", "score": 0.5, "segment": [1.0, 2.0], **changes}


def save(folder: Path, content: Any, name: str = "found.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def some_table(num: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 5000, num)
    return files.table(
        [f"video {i // 10}" for i in range(num)],
        [["Jump", "Run, fast", '"quoted"', "NA"][i % 4] for i in range(num)],
        rng.random(num),
        start,
        start + rng.uniform(0, 50, num),
    )


@pytest.mark.parametrize("name", ["out.json", "out.json.gz", "deep/er/out.csv"])
def test_written_and_read_again_is_the_same_to_the_last_bit(tmp_path: Path, name: str) -> None:
    table = some_table()
    files.write(tmp_path / name, table)
    pd.testing.assert_frame_equal(files.read(tmp_path / name), table, check_exact=True)


def test_the_header_is_kept_and_may_carry_more(tmp_path: Path) -> None:
    header = {"version": "VERSION 1.3", "external_data": {"used": False}, "model": {"seed": 3}}
    path = tmp_path / "out.json"
    files.write(path, some_table(5), videos=("empty",), header=header)
    loaded = files.load(path)
    assert loaded.header == header
    assert loaded.videos == ("empty", "video 0")
    files.write(path, some_table(5))
    assert {"version", "external_data", "results"} == json.loads(path.read_text()).keys()


def test_reads_the_sample_of_the_kit(shared: Path) -> None:
    folder = shared / "real" / "annotations"
    loaded = files.load(folder / "activitynet" / "sample_detection_prediction.json")
    assert len(loaded.videos) == 4926 and len(loaded.table) == 7654
    assert loaded.table.iloc[0].to_dict() == {
        "video": "wONwHYy59Tc",
        "label": "Blow-drying hair",
        "score": 1.0,
        "start_s": 94.52138901727746,
        "end_s": 130.48707650118757,
    }
    assert loaded.header["external_data"]["used"] is False
    assert len(files.read(folder / "mmaction2_tests" / "eval_localization_result.json")) == 14


def test_columns_of_other_tools_are_known(tmp_path: Path) -> None:
    path = save(tmp_path, "video-id,t-start,t-end,score,label\nv,1,2,0.5,Jump\n", "a.csv")
    assert files.read(path).iloc[0].to_list() == ["v", "Jump", 0.5, 1.0, 2.0]


def test_no_detections_make_an_empty_table_with_types(tmp_path: Path) -> None:
    for path in (
        save(tmp_path, {"results": {}}),
        save(tmp_path, {"results": {"v": []}}),
        save(tmp_path, "video,label,score,start_s,end_s\n", "a.csv"),
    ):
        table = files.read(path)
        assert table.empty and list(table.columns) == list(files.COLUMNS)
        assert table["score"].dtype == np.float64


def test_odd_segments_are_kept_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [found(segment=[3, 1]), found(segment=[2, 2]), found()]
    assert len(files.read(save(tmp_path, {"results": {"v": rows}}))) == 3
    logged = capsys.readouterr().err
    assert "num_detections=3 num_videos=1 zero_length=1 reversed=1" in logged
    assert "1 detections end before they start, the first in v" in logged


def test_whole_numbers_and_numbers_as_text_are_numbers(tmp_path: Path) -> None:
    rows = [found(score=1, segment=["0.5", 2])]
    assert files.read(save(tmp_path, {"results": {"v": rows}})).iloc[0].to_list() == [
        "v", "Jump", 1.0, 0.5, 2.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ('{"results": {"v": [{"label"', "no valid JSON.*cut off"),
        ("[]", 'expected detections, JSON with "results"; found a list'),
        ({"database": {}}, "these are annotations"),
        ({"results": []}, '"results": expected lists of detections by video'),
        ({"results": {"v": {}}}, "v: expected a list of detections"),
        ({"results": {"v": [found(), 5]}}, "v: detection 1: expected an object, found 5"),
        ({"results": {"v": [{"label": "x", "score": 1}]}}, 'v: detection 0: no "segment"'),
        ({"results": {"v": [{"score": 1, "segment": [0, 1]}]}}, 'v: detection 0: no "label"'),
        ({"results": {"v": [found(segment=[1])]}}, r'"segment": expected \[start, end\]'),
        ({"results": {"v": [found(segment=[1, 2, 3])]}}, r'"segment": expected \[start, end\]'),
        ({"results": {"v": [found(segment=5)]}}, r'"segment": expected \[start, end\]'),
        ({"results": {"v": [found(label=7)]}}, 'v: detection 0: "label": expected a name'),
        ({"results": {"v": [found(score=NAN)]}}, 'v: detection 0: "score": .* found nan'),
        ({"results": {"v": [found(score="high")]}}, "\"score\": .* found 'high'"),
        ({"results": {"v": [found(score=None)]}}, '"score": .* found None'),
        ({"results": {"v": [found(), found(segment=[0, INF])]}}, "detection 1: .*found inf"),
        ({"results": {"v": [found(score=10**400)]}}, '"score": expected a finite number, found 10'),
        ({"results": {"v": [found(segment=[0, 10**400])]}}, '"segment": expected a finite number'),
        ({"results": {"v": [found(segment=[-1e10, 0])]}}, '"segment": expected at most 1e.09'),
        ({"results": {"a\nb": 5}}, r"a\\nb: expected a list of detections, found 5"),
        ({"results": {"v": [found(label=["x" * 10**6])]}}, '"label": expected a name, found ..x+'),
        ('{"results": {"v": [], "v": []}}', "'v' stands twice"),
        ("video,label,start_s,end_s\n", "no score among video, label, start_s, end_s"),
        ("video,label,score,start_s,end_s\nv,x,high,0,1\n", "row 0: v: score: .* found 'high'"),
        ("video,label,score,start_s,end_s\nv,x,nan,0,1\n", "row 0: v: score: .* found 'nan'"),
        ("video,label,score,start_s,end_s\nv,x,1,0\n", "row 0: 4 cells, but the header has 5"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = save(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        files.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= LONGEST


def test_a_killed_writer_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "out.json", some_table())
    assert not list(tmp_path.iterdir())


def test_broken_compression_is_named(tmp_path: Path) -> None:
    path = tmp_path / "found.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"results": {}}).encode())[:-4])
    with pytest.raises(UserError, match="gzip file is broken"):
        files.read(path)
