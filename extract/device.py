"""Where a network runs, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tad_distill.console import UsageError, UserError
from tad_distill.extract.config import ExtractConfig


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
