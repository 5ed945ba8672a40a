"""Official checkpoints of the detection heads: their names and layouts, in and out, strictly."""

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tad_distill.console import UserError
from tad_distill.distill.heads.actionformer import ActionFormer
from tad_distill.distill.layers import Conv, DepthwiseConv

# Our module names to the official ones, first match; what is listed nowhere keeps its name.
_ACTIONFORMER_NAMES = (
    (r"^backbone\.embedding\.(\d+)\.", r"backbone.embd.\1.conv."),
    (r"^backbone\.embedding_norm\.", "backbone.embd_norm."),
    (r"\.norm_attention\.", ".ln1."),
    (r"\.norm_mlp\.", ".ln2."),
    (r"\.attention\.(query|key|value)_conv\.", r".attn.\1_conv.conv."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.2\.", ".mlp.3."),  # theirs counts a dropout between
    (r"\.add_attention\.", ".drop_path_attn."),
    (r"\.add_mlp\.", ".drop_path_mlp."),
    (r"^neck\.norms\.", "neck.fpn_norms."),
    (r"^neck\.laterals\.(\d+)\.", r"neck.lateral_convs.\1.conv."),
    (r"^neck\.convs\.(\d+)\.", r"neck.fpn_convs.\1.conv."),
    (r"\.(conv1|conv2|downsample)\.", r".\1.conv."),
    (r"^classifier\.out\.", "cls_head.cls_head.conv."),
    (r"^classifier\.convs\.(\d+)\.", r"cls_head.head.\1.conv."),
    (r"^classifier\.norms\.", "cls_head.norm."),
    (r"^regressor\.out\.", "reg_head.offset_head.conv."),
    (r"^regressor\.convs\.(\d+)\.", r"reg_head.head.\1.conv."),
    (r"^regressor\.norms\.", "reg_head.norm."),
    (r"^scales\.(\d+)$", r"reg_head.scale.\1.scale"),
)
# Official parts that this head does not have, with what to do about them.
_ACTIONFORMER_FOREIGN = {
    "backbone.proj.": "a projection per input stream (a list as input_dim)",
    "neck.lateral_convs.": "the FPN neck (set head.neck=fpn)",
    ".attn.rel_pe": "relative position encoding (set head.relative_positions=true)",
    ".downsample.conv.": "convolution blocks (set head.backbone=convolution)",
}
_NUM_NAMES_SHOWN = 4


@dataclass(frozen=True)
class _Entry:
    """One tensor of ours: its official name, and how its axes are turned out and in."""

    name: str
    out: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def read(path: Path, *, ema: bool = True) -> dict[str, Tensor]:
    """Read the weights of a checkpoint that an official code base wrote.

    Args:
        path: The file: a dict with ``state_dict`` and perhaps ``state_dict_ema`` (ActionFormer),
            or a bare state dict.
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


def to_official(head: ActionFormer) -> dict[str, Tensor]:
    """The head's weights under ActionFormer's official names and shapes."""
    entries = _actionformer_entries(head)
    return {entries[name].name: entries[name].out(p) for name, p in _parameters(head).items()}


def load_official(head: ActionFormer, state: Mapping[str, Tensor], source: str) -> None:
    """Copy an official ActionFormer state dict into a head; every name must be used.

    The loss normaliser is in no official checkpoint and stays as it is.

    Args:
        head: What to fill.
        state: Official names to tensors, as :func:`read` gives them.
        source: What to call the checkpoint in an error.

    Raises:
        UserError: Names are missing or left over, or shapes differ; nothing was copied then.
    """
    entries = _actionformer_entries(head)
    expected = {entry.name for entry in entries.values()}
    missing, extra = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or extra:
        raise UserError(f"{source}: {_accounting(missing, extra)}")
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


def _weights(content: Any, path: Path, ema: bool) -> dict[str, Tensor]:
    if isinstance(content, dict) and "state_dict" in content:
        with_ema = ema and "state_dict_ema" in content
        content = content["state_dict_ema" if with_ema else "state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: no state dict in the checkpoint; expected names with tensors")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _parameters(head: ActionFormer) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in head.named_parameters()}


def _actionformer_entries(head: ActionFormer) -> dict[str, _Entry]:
    entries = {}
    for name in _parameters(head):
        module = head.get_submodule(name.rpartition(".")[0])
        official = name
        for pattern, replacement in _ACTIONFORMER_NAMES:
            official, found = re.subn(pattern, replacement, official)
        entries[name] = _Entry(official, *_axes(module, name.rpartition(".")[2]))
    return entries


def _axes(
    module: nn.Module, leaf: str
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    if isinstance(module, nn.LayerNorm) or leaf == "scale":  # (C,) and (1, C, 1)
        return lambda p: p[None, :, None], lambda p: p.flatten()
    if leaf == "weight" and isinstance(module, Conv):  # (kernel, out, in) and (out, in, kernel)
        return lambda p: p.movedim(0, 2), lambda p: p.movedim(2, 0)
    if leaf == "weight" and isinstance(module, DepthwiseConv):  # (kernel, C) and (C, 1, kernel)
        return lambda p: p.T.unsqueeze(1), lambda p: p.squeeze(1).T
    if leaf == "rel_pe":  # (H, window) and (1, 1, H, window)
        return lambda p: p[None, None], lambda p: p[0, 0]
    if leaf == "weight":  # a linear layer: (out, in) and (out, in, 1)
        return lambda p: p.unsqueeze(-1), lambda p: p.squeeze(-1)
    return lambda p: p, lambda p: p


def _accounting(missing: list[str], extra: list[str]) -> str:
    parts = []
    for what, names in (("missing tensors", missing), ("tensors not known to this head", extra)):
        if names:
            shown = ", ".join(names[:_NUM_NAMES_SHOWN])
            more = ", ..." if len(names) > _NUM_NAMES_SHOWN else ""
            parts.append(f"{what}: {len(names)} ({shown}{more})")
    foreign = [why for key, why in _ACTIONFORMER_FOREIGN.items() if any(key in n for n in extra)]
    remedy = (
        f"the checkpoint uses {' and '.join(foreign)}, which this head, as it is set, lacks"
        if foreign
        else "set head.arch and head.drop_path as in the checkpoint's own settings"
    )
    return f"{'; '.join(parts)}; {remedy}"
