"""Which files an extraction is about."""

from pathlib import Path

import pytest

from tad_distill.console import UsageError, UserError
from tad_distill.extract import sources


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "deep/er/c.webm", "notes.md", "b.json", ".hidden.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def test_folders_are_searched_and_other_files_counted(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sources.find([tree])
    assert [path.name for path in found] == ["a.MKV", "b.mp4", "c.webm"]
    assert "event=not_videos" in (log := capsys.readouterr().err)
    assert "files=2" in log and "notes.md" in log and "hidden" not in log


def test_named_files_are_taken_whatever_their_suffix_and_once(tree: Path) -> None:
    found = sources.find([tree / "notes.md", tree / "b.mp4", tree])
    assert [path.name for path in found] == ["notes.md", "b.mp4", "a.MKV", "c.webm"]


def test_a_list_names_files_and_folders(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = tmp_path / "list.txt"
    listed.write_text(f"# a comment\nvideos/b.mp4\n\n{tree / 'deep'}\n")
    assert [path.name for path in sources.find([listed])] == ["b.mp4", "c.webm"]
    listed.write_text("videos/b.mp4\nvideos/absent.mp4\n")
    with pytest.raises(UsageError, match=r"line 2: videos/absent\.mp4: no such file.*current"):
        sources.find([listed])
    listed.write_text("# nothing\n")
    with pytest.raises(UsageError, match="the list is empty"):
        sources.find([listed])


def test_nothing_to_do_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "readme.md").touch()
    with pytest.raises(UsageError, match=r"no videos in this folder \(1 other files\)"):
        sources.find([tmp_path])
    with pytest.raises(UsageError, match=r"absent: no such file or folder"):
        sources.find([tmp_path / "absent"])
    with pytest.raises(UsageError, match="no videos"):
        sources.find([])


def test_two_videos_of_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    first, second = tmp_path / "x" / "v.mp4", tmp_path / "y" / "v.avi"
    for path in (first, second):
        path.parent.mkdir()
        path.touch()
    with pytest.raises(UserError) as error:
        sources.by_name([first, second])
    assert str(first) in str(error.value) and str(second) in str(error.value)
    assert sources.by_name([first, tmp_path / "x" / ".." / "x" / "v.mp4"]) == {"v": first}
