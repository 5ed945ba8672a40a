"""How the official code names and lays out the weights of each head; read by ``official``."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tad_distill.distill.heads import Head
from tad_distill.distill.heads.actionformer import ActionFormer
from tad_distill.distill.heads.gtad import GTAD
from tad_distill.distill.heads.tadtr import TadTR
from tad_distill.distill.layers import Conv, DepthwiseConv

Turn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Entry:
    """One tensor of ours: its official name, and how its axes are turned out and in."""

    name: str
    out: Turn
    back: Turn


@dataclass(frozen=True)
class Layout:
    """The official names of a head.

    Attributes:
        names: Patterns of our names and what takes their place, one after the other; what none
            matches keeps its name.
        axes: How a parameter, given as the head and its name, is turned out and in.
        copies: Official names that begin so repeat those of the second beginning.
        foreign: Parts of official names that this head lacks, with what to do about them.
        remedy: What to do about other differences.
    """

    names: tuple[tuple[str, str], ...]
    axes: Callable[[nn.Module, str], tuple[Turn, Turn]]
    copies: Mapping[str, str]
    foreign: Mapping[str, str]
    remedy: str

    def entries(self, head: Head) -> dict[str, Entry]:
        """For each parameter of ours its official place."""
        found = {}
        for name, _ in head.named_parameters():
            official = name
            for pattern, replacement in self.names:
                official = re.sub(pattern, replacement, official)
            found[name] = Entry(official, *self.axes(head, name))
        return found


def layout_of(head: Head) -> Layout:
    """The layout of a head's official code."""
    return _LAYOUTS[type(head)]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _actionformer_axes(head: nn.Module, name: str) -> tuple[Turn, Turn]:
    parent, _, leaf = name.rpartition(".")
    module = head.get_submodule(parent)
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
    return _same, _same


def _tadtr_axes(head: nn.Module, name: str) -> tuple[Turn, Turn]:
    assert isinstance(head, TadTR)
    num_bins = head.config.num_bins
    if name == "project.weight":  # (out, in) and (out, in, 1)
        return lambda p: p.unsqueeze(-1), lambda p: p.squeeze(-1)
    if name == "level":  # (C,) and (1, C)
        return lambda p: p.unsqueeze(0), lambda p: p.squeeze(0)
    if name == "actionness.inner.0.weight":  # (out, bins of C) and (out, C of bins)
        return (
            lambda p: p.unflatten(1, (num_bins, -1)).transpose(1, 2).flatten(1),
            lambda p: p.unflatten(1, (-1, num_bins)).transpose(1, 2).flatten(1),
        )
    return _same, _same


def _gtad_axes(head: nn.Module, name: str) -> tuple[Turn, Turn]:
    if name.endswith("bias"):
        return _same, _same
    if name == "map.align.weight":  # (bins, out, in) and (out, in * bins, 1, 1)
        num_bins = len(head.get_parameter(name))
        return (
            lambda p: p.movedim(0, 2).flatten(1)[..., None, None],
            lambda p: p.flatten(1).unflatten(1, (-1, num_bins)).movedim(2, 0),
        )
    # Theirs are convolutions, over time or over edges and anchors, which have two axes.
    lacking = (4 if ".edge_" in name or name.startswith("map.") else 3) - head.get_parameter(
        name
    ).ndim
    return (
        lambda p: p[(..., *[None] * lacking)],
        lambda p: p.flatten(p.ndim - lacking - 1) if lacking else p,
    )


_ACTIONFORMER = Layout(
    names=(
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
    ),
    axes=_actionformer_axes,
    copies={},
    foreign={
        "backbone.proj.": "a projection per input stream (a list as input_dim)",
        "neck.lateral_convs.": "the FPN neck (set head.neck=fpn)",
        ".attn.rel_pe": "relative position encoding (set head.relative_positions=true)",
        ".downsample.conv.": "convolution blocks (set head.backbone=convolution)",
    },
    remedy="set head.arch and head.drop_path as in the checkpoint's own settings",
)
_TADTR = Layout(
    names=(
        (r"^project\.", "input_proj.0.0."),
        (r"^project_norm\.", "input_proj.0.1."),
        (r"^level$", "transformer.level_embed"),
        (r"^decoder\.queries\.", "query_embed."),
        (r"^decoder\.reference\.", "transformer.reference_points."),
        (r"^decoder\.classifiers\.", "class_embed."),
        (r"^decoder\.regressors\.(\d+)\.inner\.", r"segment_embed.\1.layers."),
        (r"^decoder\.regressors\.(\d+)\.last\.", r"segment_embed.\1.layers.2."),
        (r"^actionness\.inner\.0\.", "actionness_pred.0."),
        (r"^actionness\.inner\.1\.", "actionness_pred.2."),
        (r"^actionness\.last\.", "actionness_pred.4."),
        (r"^encoder\.(\d+)\.attention\.", r"transformer.encoder.layers.\1.self_attn."),
        (r"^encoder\.(\d+)\.mlp\.norm\.", r"transformer.encoder.layers.\1.norm2."),
        (r"^encoder\.", "transformer.encoder.layers."),
        (r"^decoder\.layers\.(\d+)\.attention\.", r"transformer.decoder.layers.\1.cross_attn."),
        (r"^decoder\.layers\.(\d+)\.mlp\.norm\.", r"transformer.decoder.layers.\1.norm3."),
        (r"^decoder\.layers\.", "transformer.decoder.layers."),
        (r"\.among\.into\.", ".self_attn.in_proj_"),
        (r"\.among\.out\.", ".self_attn.out_proj."),
        (r"_attn\.offsets\.", "_attn.sampling_offsets."),
        (r"_attn\.weights\.", "_attn.attention_weights."),
        (r"_attn\.value\.", "_attn.value_proj."),
        (r"_attn\.out\.", "_attn.output_proj."),
        (r"\.norm_attention\.", ".norm1."),
        (r"\.norm_among\.", ".norm2."),
        (r"\.mlp\.first\.", ".linear1."),
        (r"\.mlp\.second\.", ".linear2."),
    ),
    axes=_tadtr_axes,
    copies={"transformer.decoder.segment_embed.": "segment_embed."},
    foreign={"backbone.": "an image backbone (of E2E-TAD; leave its tensors out)"},
    remedy="set head.num_encoder_layers and head.num_decoder_layers as in the checkpoint's own "
    "settings",
)
_GTAD = Layout(
    names=(
        (r"^encoder\.embedding\.", "backbone1.0."),
        (r"^encoder\.stem\.", "backbone1.2."),
        (r"^encoder\.trunk\.", "backbone2.0."),
        (r"^(s|e)(?:tart|nd)\.block\.", r"regu_\1.0."),
        (r"^(s|e)(?:tart|nd)\.out\.", r"regu_\1.1."),
        (r"\.time_in\.", ".tconvs.0."),
        (r"\.time_conv\.", ".tconvs.2."),
        (r"\.time_out\.", ".tconvs.4."),
        (r"\.edge_in\.", ".sconvs.0."),
        (r"\.edge_conv\.", ".sconvs.2."),
        (r"\.edge_out\.", ".sconvs.4."),
        (r"^map\.align\.", "localization.0."),
        (r"^map\.reduce\.", "localization.2."),
        (r"^map\.convs\.0\.", "localization.4."),
        (r"^map\.convs\.1\.", "localization.6."),
        (r"^map\.out\.", "localization.8."),
    ),
    axes=_gtad_axes,
    copies={},
    foreign={},
    remedy="set head.bins, head.map_kernel and the widths as in the checkpoint's own settings; the "
    "official map has one label (model.class_agnostic)",
)
_LAYOUTS: dict[type[Head], Layout] = {ActionFormer: _ACTIONFORMER, GTAD: _GTAD, TadTR: _TADTR}
