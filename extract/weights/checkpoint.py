"""Read what a checkpoint file holds without running code from it.

PyTorch's files are read with ``weights_only=True``. The pickles that Caffe2 left are read by an
unpickler that knows arrays of numbers and nothing else.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tad_distill.console import UserError

ZIP = b"PK\x03\x04"
# The number that files of PyTorch before 1.6 begin with, as a pickle.
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

# What reading a damaged or crafted pickle may raise.
DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ImportError,
    OverflowError,
    MemoryError,
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's dict.

    Raises:
        UserError: No such file, or not a dict of plain tensors and values.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights ({error.strerror})") from error
    if not start:
        raise UserError(f"{path}: not a checkpoint of plain tensors: the file is empty")
    if start.lstrip()[:1] == b"<" or start.startswith(b"version https://git-lfs"):
        what = "a web page" if b"git-lfs" not in start else "a Git LFS pointer"
        raise UserError(f"{path}: {what} instead of a checkpoint; download the file itself")
    of_torch = start.startswith((ZIP, LEGACY))
    content = _read_torch(path) if of_torch else _read_pickle(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a checkpoint's dict, found {type(content).__name__}")
    return content


class _History:
    """Stands in for mmengine's record of the training losses, which nobody reads here."""


def _read_torch(path: Path) -> Any:
    """A file of PyTorch; mmengine's files hold their losses beside the tensors."""
    numbers = (np.float32, np.float64, np.int32, np.int64)
    allowed: list[Any] = [
        (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
        *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(number)) for number in numbers),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise UserError(
            f"{path}: not a checkpoint of plain tensors; what else it holds is not loaded, since "
            "that could run code: save its state_dict alone"
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except _Forbidden as error:
        raise UserError(
            f"{path}: refused, its pickle asks for {error}; only arrays of numbers are read from "
            "pickles, since anything else could run code"
        ) from error
    except DAMAGED as error:
        raise UserError(
            f"{path}: not a checkpoint of plain tensors: neither a file of PyTorch nor a whole "
            f"pickle of arrays ({type(error).__name__})"
        ) from error
    return _as_tensors(content)


class _Forbidden(Exception):
    """A pickle asks for something that is no array."""


def _reconstruct(kind: type, shape: tuple[int, ...], typecode: bytes | str) -> np.ndarray:
    """An empty array; NumPy's pickles ask for one and set its state afterwards."""
    if kind is not np.ndarray or shape != (0,):
        raise _Forbidden(f"an array of the class {kind!r} and the shape {shape}")
    return np.ndarray(shape, np.int8)


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Bytes that Python 3 wrote into an old pickle; other codecs would be imported by name."""
    if encoding not in ("latin1", "latin-1"):
        raise _Forbidden(f"the codec {encoding!r}")
    return text.encode("latin1")


def _scalar(kind: np.dtype, data: bytes | str) -> Any:
    """A NumPy scalar; Python 2 wrote its bytes as a string."""
    if kind.hasobject:
        raise _Forbidden("a scalar of objects")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind)[0]


class _ArrayUnpickler(pickle.Unpickler):
    """Knows arrays of numbers, and refuses every other name."""

    KNOWN = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("_codecs", "encode"): _encoded,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def __init__(self, file: IO[bytes]) -> None:
        """Read a file of Python 2, whose strings are bytes."""
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """One of the known names.

        Raises:
            _Forbidden: Any other.
        """
        try:
            return self.KNOWN[module, name]
        except KeyError:
            raise _Forbidden(f"{module}.{name}") from None


def _as_tensors(content: Any) -> Any:
    """Turn the arrays of numbers in nested dicts into tensors."""
    if isinstance(content, dict):
        return {key: _as_tensors(value) for key, value in content.items()}
    if isinstance(content, np.ndarray) and content.dtype.kind in "fiu":
        native = content.astype(content.dtype.newbyteorder("="))
        tensor: Tensor = torch.from_numpy(native)
        return tensor
    return content
