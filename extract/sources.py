"""Which videos an extraction is about: files, folders and lists, each video under one name."""

from collections.abc import Iterable
from pathlib import Path

from tad_distill.console import UsageError, UserError, log
from tad_distill.extract.video import SUFFIXES


def find(arguments: Iterable[Path]) -> list[Path]:
    """Files for what a user names.

    Args:
        arguments: Files are taken as they are; folders are searched to the bottom for files with
            the suffix of a video, hidden ones aside; a ``.txt`` file names one file or folder a
            line (``#`` starts a comment, relative paths start at the current directory).

    Returns:
        The files, each once, sorted within a folder.

    Raises:
        UsageError: Something does not exist, or there is no video at all.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        for path in _expand(argument):
            found[path] = None
    if not found:
        raise UsageError("no videos: neither a file, nor a folder with videos in it, was named")
    return list(found)


def by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by the name that a video has in a store: the file's name without suffix.

    Raises:
        UserError: Two files have the same name; the message names both.
    """
    files: dict[str, Path] = {}
    for path in paths:
        other = files.setdefault(path.stem, path)
        if other != path and not other.samefile(path):
            raise UserError(
                f"{other} and {path}: two videos named {path.stem!r}; rename one of them, or "
                "extract them into two stores"
            )
    return files


def _expand(argument: Path, listed_in: str = "") -> list[Path]:
    where = f"{listed_in}{argument}"
    if argument.is_dir():
        return _search(argument, where)
    if not argument.exists():
        hint = "; relative paths start at the current directory" if listed_in else ""
        raise UsageError(f"{where}: no such file or folder{hint}")
    if argument.suffix.lower() != ".txt" or listed_in:
        return [argument]
    paths = []
    lines = argument.read_text(errors="surrogateescape").splitlines()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            paths += _expand(Path(text), listed_in=f"{argument} line {number}: ")
    if not paths:
        raise UsageError(f"{argument}: the list is empty")
    return paths


def _search(folder: Path, where: str) -> list[Path]:
    videos: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        (videos if path.suffix.lower() in SUFFIXES else others).append(path)
    if others:
        some = ", ".join(path.name for path in others[:5])
        log("not_videos", folder=folder, files=len(others), some=some)
    if not videos:
        raise UsageError(f"{where}: no videos in this folder ({len(others)} other files)")
    return videos
