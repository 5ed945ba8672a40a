"""Official checkpoints of the detection heads: their names and layouts, in and out, strictly."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.distill.heads import Head
from tad_distill.distill.official_layouts import Layout, layout_of

_NUM_NAMES_SHOWN = 4


def read(path: Path, *, ema: bool = True) -> dict[str, Tensor]:
    """Read the weights of a checkpoint that an official code base wrote.

    Args:
        path: The file: a dict with ``state_dict`` and perhaps ``state_dict_ema`` (ActionFormer,
            G-TAD) or ``model`` (TadTR), or a bare state dict.
        ema: Take the moving average of the weights where there is one, as the official evaluation
            does.

    Returns:
        Official names, without the ``module.`` of DataParallel, to tensors on the CPU.

    Raises:
        UserError: Not such a file, or one that holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path}: not a checkpoint of tensors and plain values ({reason}); "
            "save its state dict alone and try again"
        ) from error
    return _weights(content, path, ema)


def to_official(head: Head) -> dict[str, Tensor]:
    """The head's weights under its official code's names and in its shapes."""
    layout = layout_of(head)
    entries = layout.entries(head)
    state = {entries[name].name: entries[name].out(p) for name, p in _parameters(head).items()}
    for copy, original in layout.copies.items():
        names = [name for name in state if name.startswith(original)]
        state |= {copy + name.removeprefix(original): state[name] for name in names}
    return state


def load_official(head: Head, state: Mapping[str, Tensor], source: str) -> None:
    """Copy an official state dict into a head; every name must be used.

    ActionFormer's loss normaliser is in no official checkpoint and stays as it is.

    Args:
        head: What to fill.
        state: Official names to tensors, as :func:`read` gives them.
        source: What to call the checkpoint in an error.

    Raises:
        UserError: Names are missing or left over, or shapes differ; nothing was copied then.
    """
    layout = layout_of(head)
    entries = layout.entries(head)
    state = _without_copies(state, layout)
    expected = {entry.name for entry in entries.values()}
    missing, extra = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or extra:
        raise UserError(f"{source}: {_accounting(missing, extra, layout)}")
    ours = _parameters(head)
    for name, entry in entries.items():
        wanted, found = entry.out(ours[name]).shape, state[entry.name].shape
        if wanted != found:
            raise UserError(
                f"{source}: {entry.name}: expected {tuple(wanted)}, found {tuple(found)}; "
                "the head's settings differ from the checkpoint's"
            )
    for name, entry in entries.items():
        ours[name].copy_(entry.back(state[entry.name]))  # detached, so autograd does not see it


def _without_copies(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Each tensor once, also where only its copy was kept."""
    kept = dict(state)
    for copy, original in layout.copies.items():
        for name in [name for name in state if name.startswith(copy)]:
            kept.setdefault(original + name.removeprefix(copy), kept.pop(name))
    return kept


def _weights(content: Any, path: Path, ema: bool) -> dict[str, Tensor]:
    if isinstance(content, dict):
        keys = (*(["state_dict_ema"] if ema else []), "state_dict", "model")
        content = next((content[key] for key in keys if key in content), content)
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: no state dict in the checkpoint; expected names with tensors")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _parameters(head: Head) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in head.named_parameters()}


def _accounting(missing: list[str], extra: list[str], layout: Layout) -> str:
    parts = []
    for what, names in (("missing tensors", missing), ("tensors not known to this head", extra)):
        if names:
            shown = ", ".join(names[:_NUM_NAMES_SHOWN])
            more = ", ..." if len(names) > _NUM_NAMES_SHOWN else ""
            parts.append(f"{what}: {len(names)} ({shown}{more})")
    foreign = [why for key, why in layout.foreign.items() if any(key in n for n in extra)]
    remedy = (
        f"the checkpoint uses {' and '.join(foreign)}, which this head, as it is set, lacks"
        if foreign
        else layout.remedy
    )
    return f"{'; '.join(parts)}; {remedy}"
