"""Where a network runs, and how exactly."""

import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.console import UsageError, UserError
from tad_distill.extract.config import ExtractConfig

# Parameters of glibc's mallopt: when to give memory back, and how large a piece to ask for apart.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


class OutOfMemory(UserError):
    """One run of frames is too much for the GPU: another setting is needed, for all videos."""


def choose_device(config: ExtractConfig) -> torch.device:
    """The device of the settings; ``auto`` is the GPU where there is one.

    Raises:
        UsageError: There is no such device, or it cannot compute in the precision asked for.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise UsageError(
            f"device: {name} was asked for, there are {torch.cuda.device_count()} GPUs"
        )
    if device.type == "cpu" and config.precision != "float32":
        raise UsageError(f"precision: {config.precision} needs a GPU; on the CPU use float32")
    return device


def device_name(device: torch.device) -> str:
    """``cpu``, or the make of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def keep_memory() -> None:
    """Let the C library keep large pieces of memory for the next tensor, where it is glibc.

    It hands them back by default, and the system clears every page anew: a quarter of the time
    of TSM-18 on a batch of 256 frames.
    """
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in a precision; without TF32 and without choosing algorithms by timing.

    Args:
        device: Where.
        precision: ``float32``, or the type that the GPU's autocast uses.
    """
    matmul = torch.backends.cuda.matmul
    allowed, matmul.allow_tf32 = matmul.allow_tf32, False
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    try:
        with (
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
            torch.autocast(device.type, dtype, enabled=precision != "float32"),
        ):
            yield
    finally:
        matmul.allow_tf32 = allowed


def allocator(device: torch.device) -> Callable[[int], NDArray[np.uint8]]:
    """Allocates bytes that a GPU can fetch by itself; plain ones where there is none."""

    def pinned(num_bytes: int) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = torch.empty(
            num_bytes, dtype=torch.uint8, pin_memory=True
        ).numpy()
        return array

    def plain(num_bytes: int) -> NDArray[np.uint8]:
        return np.empty(num_bytes, np.uint8)

    return pinned if device.type == "cuda" else plain


class Uploads:
    """Brings frames to the device without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        """Take the device."""
        self._device = device
        self._under_way: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def __call__(self, frames: NDArray[np.uint8]) -> Tensor:
        """The frames there; their memory here is kept until they have arrived."""
        given = torch.from_numpy(frames)
        if self._device.type != "cuda":
            return given
        moved = given.to(self._device, non_blocking=True)
        self._under_way.append((given, _now(self._device)))
        while self._under_way and self._under_way[0][1].query():
            self._under_way.popleft()
        return moved


class Download:
    """Tensors on their way from a device; a GPU goes on computing meanwhile."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Start to fetch them."""
        device = tensors[0].device
        self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._arrival = _now(device) if device.type == "cuda" else None

    def wait(self) -> list[Tensor]:
        """The tensors, on the CPU."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._tensors


def _now(device: torch.device) -> torch.cuda.Event:
    """An event behind everything that the device has been given to do."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
