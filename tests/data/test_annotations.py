"""Annotation files: every form in the wild, every policy, every fault named."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tad_distill.console import UserError
from tad_distill.data.annotations import Annotation, AnnotationSet, Policy, Video, read, write

KEEP = Policy("keep", "keep", "keep", "keep", "keep")


def database(**videos: Any) -> dict[str, Any]:
    return {"version": "1", "database": videos}


def entry(*segments: Any, **fields: Any) -> dict[str, Any]:
    return {
        "subset": "test",
        "annotations": [{"label": "Jump", "segment": list(segment)} for segment in segments],
        **fields,
    }


def save(folder: Path, content: Any, name: str = "annotations.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def segments(found: AnnotationSet, video: str = "v") -> list[tuple[float, float]]:
    return [(a.start_s, a.end_s) for a in found.videos[video].annotations]


# Forms


@pytest.mark.parametrize(
    ("name", "num_videos", "num_annotations", "subsets"),
    [
        ("thumos14/thumos14.json", 412, 6365, ["Test", "Validation"]),
        ("thumos14/thumos_gt_gtad.json", 410, 6318, ["test", "train"]),
        ("thumos14/test_Annotation.csv", 213, 3358, ["test"]),
        ("thumos14/val_Annotation.csv", 200, 3007, ["validation"]),
        ("thumos14/thumos14_test_groundtruth.csv", 213, 3358, ["test"]),
        (
            "activitynet/activity_net.v1-3.derived.json.gz",
            19228,
            22152,
            ["testing", "training", "validation"],
        ),
        ("activitynet/anet_anno_action.json.gz", 19228, 22152, []),
        ("activitynet/activitynet_v1-3_valid_tsp_groundtruth.csv.gz", 4926, 7654, []),
        ("gmdcsa24/gmdcsa24.json", 160, 336, []),
        ("ucf101/ucf101_24_temporal.json", 3194, 4458, []),
        ("mmaction2_tests/action_test_anno.json", 2, 2, []),
        ("mmaction2_tests/eval_localization_gt.json", 2, 4, ["validation"]),
    ],
)
def test_reads_every_form_completely(
    shared: Path, name: str, num_videos: int, num_annotations: int, subsets: list[str]
) -> None:
    policy = Policy("keep", "drop", "keep", "keep", "keep")
    found = read(shared / "real" / "annotations" / name, policy)
    assert (len(found.videos), found.num_annotations) == (num_videos, num_annotations)
    assert found.subsets() == subsets
    assert found.labels == tuple(sorted(found.labels))


def test_both_forms_of_the_thumos_test_annotations_say_the_same(shared: Path) -> None:
    folder = shared / "real" / "annotations" / "thumos14"
    as_json = read(folder / "thumos14.json", KEEP).subset("test").table()
    as_csv = read(folder / "test_Annotation.csv", Policy(out_of_range="keep")).table()
    columns = ["video", "start_s", "end_s", "label"]
    for one, other in (
        (as_json, as_csv),
        (
            as_csv,
            read(folder / "thumos14_test_groundtruth.csv", Policy(out_of_range="keep")).table(),
        ),
    ):
        a, b = (t.sort_values(columns).reset_index(drop=True)[columns] for t in (one, other))
        different = (a != b).any(axis=1).sum()
        assert different <= 1  # one Shotput is called ThrowDiscus in the third file


def test_joined_tables_equal_the_official_form(shared: Path) -> None:
    folder = shared / "real" / "annotations" / "activitynet"
    official = read(folder / "activity_net.v1-3.derived.json.gz")
    joined = read(folder / "anet_anno_action.json.gz", info=folder / "video_info_new.csv.gz")
    assert {f"v_{name}" for name in official.videos} == joined.videos.keys()
    for name, video in official.videos.items():
        other = joined.videos[f"v_{name}"]
        assert (other.subset, other.fps, other.duration_s) == (
            video.subset, video.fps, video.duration_s,
        )  # fmt: skip
        assert other.annotations == video.annotations


def test_frames_become_seconds_with_a_table_of_rates(shared: Path) -> None:
    folder = shared / "real" / "annotations" / "thumos14"
    points = read(folder / "point_labels.csv", info=folder / "fps_dict.json")
    # Frames 2025 to 2277 at 30 frames per second; the seconds are in val_Annotation.csv.
    assert points.videos["video_validation_0000051"].annotations[0] == Annotation(
        "Billiards", 67.5, 75.9
    )
    with pytest.raises(UserError, match="count in frames"):
        read(folder / "point_labels.csv")


def test_frames_use_the_rates_that_the_file_states(shared: Path) -> None:
    found = read(shared / "real" / "annotations" / "ucf101" / "ucf101_24_temporal.json")
    (annotation,) = found.videos["v_BasketballDunk_g22_c04"].annotations
    assert (annotation.start_s, annotation.end_s) == (61 / 25, 96 / 25)
    biking = found.videos["v_Biking_g01_c04"]
    assert biking.annotations[0].end_s == pytest.approx(181 / 29.97)
    assert found.counts["fps_assumed"] == 3194 - 28


def test_a_plain_csv_is_enough(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        "Video,Label,start_s,end_s,subset,duration_s\n"
        "a.mp4,Jump,1.5,2.5,train,10\n"
        "b,Run,0,3,test,20\n"
        '"a.mp4","Jump, high",4,5,train,10\n',
        "mine.csv",
    )
    found = read(path)
    assert found.videos["a"] == Video(
        "a", "train", 10.0, None,
        (Annotation("Jump", 1.5, 2.5), Annotation("Jump, high", 4.0, 5.0)),
    )  # fmt: skip
    assert found.labels == ("Jump", "Jump, high", "Run")


def test_background_rows_are_counted_and_are_no_annotations(shared: Path) -> None:
    path = shared / "real/annotations/activitynet/activitynet_v1-3_valid_tsp_groundtruth.csv.gz"
    found = read(path)
    assert found.counts["background"] == 7747
    assert "No action" not in found.labels


def test_numbers_as_text_are_read_and_counted(tmp_path: Path) -> None:
    found = read(save(tmp_path, database(v=entry(["1.5", "2.5"]))))
    assert segments(found) == [(1.5, 2.5)]
    assert found.counts["numbers_as_text"] == 2


def test_compression_is_found_from_the_content(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(gzip.compress(json.dumps(database(v=entry([1, 2]))).encode()))
    assert segments(read(path)) == [(1, 2)]


# Policies


DOUBTFUL = entry(
    [0, 1],
    [0.0005, 1.0005],  # a duplicate within 1 ms
    [2, 2],  # of no length
    [3, 3.0005],  # under 1 ms
    [5, 4],  # reversed
    [8, 12],  # reaches beyond the 10 s
    [11, 12],  # wholly outside
    duration=10.0,
)


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (KEEP, [(0, 1), (0.0005, 1.0005), (2, 2), (3, 3.0005), (5, 4), (8, 12), (11, 12)]),
        (Policy(), [(0, 1), (8, 10)]),
        (
            Policy("keep", "keep", "drop_empty", "drop", "keep"),
            [(0, 1), (0.0005, 1.0005), (3, 3.0005), (8, 12), (11, 12)],
        ),
    ],
)
def test_a_policy_leaves_what_it_says(
    tmp_path: Path, policy: Policy, left: list[tuple[float, float]]
) -> None:
    found = read(save(tmp_path, database(v=DOUBTFUL)), policy)
    assert segments(found) == left
    expected = {"duplicates": 1, "zero_length": 2, "reversed": 1, "out_of_range": 1, "outside": 1}
    assert {name: found.counts[name] for name in expected} == expected
    dropped = sum(n for name, n in found.counts.items() if name.endswith("_dropped"))
    assert dropped == 7 - len(left)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy(reversed="error"), "v: annotation 4: ends before it starts"),
        (Policy(out_of_range="error"), "v: annotation 5: .* is not within the video"),
    ],
)
def test_a_policy_may_refuse(tmp_path: Path, policy: Policy, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(save(tmp_path, database(v=DOUBTFUL)), policy)


def test_what_is_clipped_to_nothing_has_no_length(tmp_path: Path) -> None:
    found = read(save(tmp_path, database(v=entry([9.9995, 12], duration=10.0))))
    assert segments(found) == []
    assert found.counts["zero_length_dropped"] == 1


def test_marks_are_no_labels(shared: Path) -> None:
    path = shared / "real" / "annotations" / "thumos14" / "test_Annotation.csv"
    assert "Ambiguous" not in read(path).labels
    assert read(path).counts["ambiguous_dropped"] == 99
    assert "Ambiguous" in read(path, KEEP).labels


def test_videos_without_annotations_stay_and_are_counted(tmp_path: Path) -> None:
    found = read(save(tmp_path, database(v=entry([0, 1]), empty=entry())))
    assert found.videos["empty"].annotations == ()
    assert found.counts["videos_without_annotations"] == 1


def test_the_log_tells_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(save(tmp_path, database(v=DOUBTFUL)))
    logged = capsys.readouterr().err
    assert "reversed_dropped=1" in logged and "annotation 4" in logged
    assert "ambiguous" not in logged


# Sets


def test_a_subset_is_found_by_its_whole_name_in_any_case(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        database(a=entry([0, 1], subset="Test"), b=entry([0, 1], [0, 1], subset="testing")),
    )
    found = read(path)
    assert list(found.subset("test").videos) == ["a"]
    assert found.subset("TESTING").counts["duplicates"] == 1
    assert found.subset("test").counts["duplicates"] == 0
    with pytest.raises(UserError, match="no subset 'tes'; subsets there are: Test, testing"):
        found.subset("tes")


def test_a_subset_keeps_the_label_ids_of_the_whole_set(tmp_path: Path) -> None:
    rows = "video,label,start_s,end_s,subset\na,Run,0,1,train\nb,Jump,0,1,test\n"
    found = read(save(tmp_path, rows, "a.csv"))
    assert found.subset("train").labels == ("Jump", "Run")


def test_without_leaves_out_videos_and_their_counts(tmp_path: Path) -> None:
    found = read(save(tmp_path, database(a=entry([0, 1], [0, 1]), b=entry([0, 1])))).without(["a"])
    assert list(found.videos) == ["b"]
    assert (found.counts["num_annotations"], found.counts["duplicates"]) == (1, 0)


def test_written_and_read_again_is_the_same(tmp_path: Path) -> None:
    videos = {
        "a": Video("a", "train", 10.0, 25.0, (Annotation("Jump", 0.1, 2.30000001),)),
        "b": Video("b", "test", None, None, ()),
    }
    path = tmp_path / "out.json.gz"
    write(path, AnnotationSet(videos, ("Jump",), extra={"world": {"seed": 3}}))
    found = read(path)
    assert (found.videos, found.labels, found.extra) == (videos, ("Jump",), {"world": {"seed": 3}})
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_of_no_annotations_has_its_columns(tmp_path: Path) -> None:
    table = read(save(tmp_path, database(v=entry()))).table()
    assert list(table.columns) == ["video", "label", "start_s", "end_s"]
    assert table["start_s"].dtype == float


# Faults


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("   \n", "the file is empty"),
        ("\ufeff\u3000\n", "the file is empty"),
        (" , ,\n", "no CSV: there is no header"),
        (f'{{"database": {{"v": {"9" * 5000}}}}}', "no valid JSON: a number has too many digits"),
        ('{"database": {"v\\ud800": {}}}', "no valid Unicode: half of a surrogate pair"),
        ({"database": {"v": {"label": "x", "frames": True}}}, '"frames": expected a list, found T'),
        ('{"database": {"v":', "no valid JSON: line 1, column 19: .*cut off"),
        ("[1, 2]", "no known form of annotations: a JSON list"),
        ({"data": {}}, "no known form of annotations: JSON with the keys 'data'"),
        ({}, "no known form of annotations"),
        ({"database": [1]}, '"database": expected videos by name, found a list'),
        ({"database": {}}, "no video in it"),
        ({"results": {}}, "detections"),
        ({"a": 30.0, "b": 25}, "a number for each of 2 videos"),
        (database(v=5), "v: expected an object, found 5"),
        (database(v={"subset": "test"}), "v: no \"annotations\"; found 'subset'"),
        (database(v={"annotations": {}}), '"annotations": expected a list'),
        (database(v={"annotations": [5]}), "v: annotation 0: expected an object"),
        (database(v={"annotations": [{"label": "x"}]}), 'v: annotation 0: no "segment"'),
        (database(v={"annotations": [{"segment": [0, 1]}]}), 'v: annotation 0: no "label"'),
        (database(v=entry([0, 1], [2])), r'v: annotation 1: "segment": expected \[start, end\]'),
        (database(v=entry([0, 1], [2, "x"])), "v: annotation 1: .*finite number, found 'x'"),
        (database(v=entry([0, float("nan")])), "v: annotation 0: .*finite number, found nan"),
        (database(v=entry([0, float("inf")])), "v: annotation 0: .*finite number, found inf"),
        (database(v=entry([0, True])), "v: annotation 0: .*finite number, found True"),
        (database(v=entry([0, None])), "v: annotation 0: .*finite number, found None"),
        (database(v=entry([0, 1], duration=-5)), "v: duration: expected a positive number"),
        (database(v=entry([0, 1], fps="fast")), "v: fps: expected a finite number, found 'fast'"),
        (database(v=entry([0, 1], subset=3)), '"subset": expected a text, found 3'),
        (
            database(v={"annotations": [{"label": 4, "segment": [0, 1]}]}),
            '"label": expected a name, found 4',
        ),
        ('{"database": {"v": {"annotations": []}, "v": {"annotations": []}}}', "'v' stands twice"),
        (database(**{"v.mp4": entry(), "v": entry()}), "v: two entries for this video"),
        ("video,label\nv,x\n", "no known form of annotations: the columns video, label"),
        ("video,label,start,end\nv,x,0\n", "row 0: 3 cells, but the header has 4"),
        ("video,label,start,end\nv,x,0,1\nv,x,0,soon\n", "row 1: v: annotation 1: end: .*'soon'"),
        ("video,label,start,end\nv,,0,1\n", "row 0: v: annotation 0: the label is empty"),
        ("video,label,start,end\n,x,0,1\n", "the name of the video is empty"),
        ("video,label,score,start,end\nv,x,1,0,1\n", "detections, not annotations"),
        ("video,label_idx,start,end\nv,20,0,1\n", "label-idx: expected -1 to 19, found 20"),
        ("video,label,start,end\n", "no video in it"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = save(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.pkl"
    path.write_bytes(b"\x80\x04\x95")
    with pytest.raises(UserError, match="no text in UTF-8 .*expected JSON or CSV"):
        read(path)
    path.write_bytes(gzip.compress(b"x" * 1000)[:-20])
    with pytest.raises(UserError, match="gzip file is broken"):
        read(path)


def test_unknown_columns_are_quoted_with_the_known_forms(shared: Path) -> None:
    path = shared / "real" / "annotations" / "gmdcsa24" / "subject1_ADL.csv"
    with path.open() as file:
        first = next(csv.reader(file))[0]
    with pytest.raises(UserError, match="file_name.*Known: JSON .*CSV") as caught:
        read(path)
    assert first.lower().replace(" ", "_") in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annotations": [{"label": "x", "segment": [0, 1e10]}]}, "expected at most 1e.09"),
        ({"annotations": [{"label": "x", "segment": [-(10**30), 1]}]}, "expected at most 1e.09"),
        ({"fps": 1e-300, "annotations": []}, "fps: expected 1e-09 to 1e.09, found 1e-300"),
        ({"duration": 1e300, "annotations": []}, "duration: expected 1e-09 to 1e.09"),
    ],
)
def test_times_that_no_video_has_are_refused(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(save(tmp_path, {"database": {"v": entry}}))


def test_nested_too_deep_to_be_quoted_is_said_so(tmp_path: Path) -> None:
    # Somewhere below the depth that cannot be read is one that cannot be quoted in the message.
    for depth in (50, *range(600, 1001, 5), 10**5):
        text = '{"database": {"v": ' + "[" * depth + "]" * depth + "}}"
        with pytest.raises(UserError, match="expected an object, found|nested too deeply"):
            read(save(tmp_path, text))
