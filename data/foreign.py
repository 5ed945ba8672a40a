"""The forms of feature files that other programs write, one function each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError


@dataclass(frozen=True)
class Source:
    """The features of one video before they are read: ``load`` gives ``(T, C)``."""

    video: str
    where: str
    load: Callable[[], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to take from the files.

    Attributes:
        key: The array to take, where npz files hold several.
        channels: First channel and the one after the last.
        prefix: Taken from the front of names.
        suffix: Taken from the end of names.
    """

    key: str | None = None
    channels: tuple[int, int] | None = None
    prefix: str = ""
    suffix: str = ""

    def name(self, text: str) -> str:
        """The name of a video from that of its file or array."""
        return text.removeprefix(self.prefix).removesuffix(self.suffix)


def npy(path: Path, selection: Selection) -> list[Source]:
    """One ``(T, C)`` file per video: ActionFormer, OpenTAD, TadTR, video_features."""
    return [
        Source(selection.name(file.stem), str(file), lambda file=file: _npy(file))  # type: ignore[misc]
        for file in _files(path, ".npy")
    ]


def csv(path: Path, selection: Selection) -> list[Source]:
    """One file per video, a row per step, with or without a header: BSN, BMN, G-TAD."""
    return [
        Source(selection.name(file.stem), str(file), lambda file=file: _csv(file))  # type: ignore[misc]
        for file in _files(path, ".csv")
    ]


def h5(path: Path, selection: Selection) -> list[Source]:
    """Files with one ``(T, C)`` dataset per video at their top: G-TAD on THUMOS'14, TSP."""
    sources = []
    for file in _files(path, ".h5", ".hdf5"):
        for name in _h5_names(file):
            load = lambda file=file, name=name: _h5(file, name)  # noqa: E731
            sources.append(Source(selection.name(name), f"{file}: {name}", load))
    return sources


def npz(path: Path, selection: Selection) -> list[Source]:
    """A folder of files, one per video; or one file, its arrays by video name or joined.

    In a file per video the array is ``key``, else ``feats`` (OpenTAD), else the only one. Joined
    means: ``names`` (N,), ``offsets`` (N + 1,), and one or more arrays whose rows
    ``offsets[i]:offsets[i + 1]`` belong to video ``i``; ``key`` says which array.
    """
    if path.is_dir():
        return [
            Source(
                selection.name(file.stem),
                str(file),
                lambda file=file: _npz_of_video(file, selection.key),  # type: ignore[misc]
            )
            for file in _files(path, ".npz")
        ]
    (file,) = _files(path, ".npz")
    arrays = _npz_names(file)
    if {"names", "offsets"} <= set(arrays):
        return _joined(file, arrays, selection)
    return [
        Source(selection.name(name), f"{file}: {name}", lambda name=name: _npz(file, name))  # type: ignore[misc]
        for name in arrays
    ]


FORMS: dict[str, Callable[[Path, Selection], list[Source]]] = {
    "npy": npy,
    "csv": csv,
    "h5": h5,
    "npz": npz,
}


def _files(path: Path, *endings: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    return sorted(
        p for p in path.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".")
    )


def _npy(path: Path) -> NDArray[Any]:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise UserError("holds several arrays; import it as npz")
    return array


def _csv(path: Path) -> NDArray[Any]:
    import pandas as pd

    with path.open() as file:
        first = file.readline()
    header = None if all(_is_number(cell) for cell in first.split(",")) else 0
    table = pd.read_csv(path, header=header)
    words = [str(name) for name, kind in table.dtypes.items() if kind.kind not in "fiu"]
    if words:
        raise UserError(f"column {words[0]!r} holds other things than numbers; expected features")
    return table.to_numpy(np.float32)


def _h5_names(path: Path) -> list[str]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return list(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); expected HDF5") from error


def _h5(path: Path, name: str) -> NDArray[Any]:
    with h5py.File(path, "r", locking=False) as file:
        item = file[name]
        if not isinstance(item, h5py.Dataset):
            raise UserError("is a group, expected a (T, C) dataset per video")
        return np.asarray(item[()])


def _npz_names(path: Path) -> list[str]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return list(file.files)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected npz") from error


def _npz(path: Path, name: str) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file[name])


def _npz_of_video(path: Path, key: str | None) -> NDArray[Any]:
    names = _npz_names(path)
    wanted = key or ("feats" if "feats" in names else names[0] if len(names) == 1 else None)
    if wanted not in names:
        raise UserError(f"holds the arrays {', '.join(names)}; name the one to take with --key")
    return _npz(path, wanted)


def _joined(path: Path, arrays: Sequence[str], selection: Selection) -> list[Source]:
    names, offsets = _npz(path, "names"), _npz(path, "offsets")
    if names.ndim != 1 or offsets.shape != (len(names) + 1,) or (np.diff(offsets) < 0).any():
        raise UserError(
            f"{path}: names {names.shape} and offsets {offsets.shape}: expected (N,) and "
            "(N + 1,), the latter ascending"
        )
    others = [name for name in arrays if name not in ("names", "offsets", "labels")]
    key = selection.key or (others[0] if len(others) == 1 else None)
    if key not in others:
        raise UserError(f"{path}: holds {', '.join(others)}; name the one to take with --key")

    @cache
    def rows() -> NDArray[Any]:
        array = _npz(path, key)
        if len(array) != offsets[-1]:
            raise UserError(f"{key} has {len(array)} rows, offsets end at {offsets[-1]}")
        return array

    return [
        Source(
            selection.name(str(name)),
            f"{path}: {name}",
            lambda i=i: rows()[offsets[i] : offsets[i + 1]],  # type: ignore[misc]
        )
        for i, name in enumerate(names)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
