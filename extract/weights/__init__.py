"""Load backbone weights strictly, in the layouts that official checkpoints come in.

Every key of a file is loaded, or on its layout's short list of what may be left out (the
classifier), or an error: a partial load gives plausible, useless features. A checkpoint cannot run
code, see :mod:`tad_distill.extract.weights.checkpoint`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tad_distill.console import UserError, warn
from tad_distill.extract.backbones import Backbone, build, variants
from tad_distill.extract.video import content_hash
from tad_distill.extract.weights.checkpoint import read_checkpoint
from tad_distill.extract.weights.layouts import Layout, layouts, tensors_of

OWN_LAYOUT = "tad-distill"
_RANDOM = re.compile(r"random:(\d+)")
# Channels of flow: one (x, y) pair, or TSN's five.
_FLOW_CHANNELS = (2, 10)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a checkpoint file holds.

    Attributes:
        layout: None: our own.
        tensors: By the names of our backbones.
        ignored: Keys of the file that no backbone needs.
        provenance: Layout and pretraining; of our own files also backbone and modality.
        normalisation: What our own file says of its input, or "".
    """

    layout: Layout | None
    tensors: dict[str, Tensor]
    ignored: list[str]
    provenance: dict[str, Any]
    normalisation: str = ""

    @property
    def channels(self) -> int:
        """Input channels of the network: its first kernels are the largest."""
        kernels = [tensor for tensor in self.tensors.values() if tensor.ndim >= 4]
        return max(kernels, key=lambda kernel: kernel.shape[-1]).shape[1] if kernels else 0


def prepare(
    name: str, modality: str, channels: int, source: Path, copy: str | None = None
) -> tuple[Backbone, dict[str, Any]]:
    """Build a backbone for a modality and give it weights.

    Args:
        name: The backbone, as streams name it.
        modality: The modality, as streams name it.
        channels: Channels of the modality.
        source: A checkpoint file, or ``random:SEED`` for random weights.
        copy: Name of the copy that its last stage is to be, as ``tad-distill adapt`` trains; None:
            its own last stage.

    Returns:
        The backbone in evaluation mode, and where its weights come from.

    Raises:
        UserError: As :func:`load`, or the file was trained for another backbone or number of
            channels, or holds another copy of the last stage than asked for.
    """
    random = _RANDOM.fullmatch(str(source))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random.group(1)) if random else 0)
        backbone = build(name)
        if channels != 3:
            backbone.adapt_channels(channels)
    backbone.eval()
    if random:
        if copy:
            raise UserError(f"{source}: a stage copy has no random weights; train it with adapt")
        seed = int(random.group(1))
        return backbone, {"layout": "random", "seed": seed, "pretraining": "none: random weights"}
    provenance = load(backbone, source)
    held = provenance.get("copy", {}).get("name")
    if held != copy:
        kinds = [f"the copy +{it} of a last stage" if it else "no copy" for it in (held, copy)]
        raise UserError(f"{source}: holds {kinds[0]}, wanted is {kinds[1]}")
    if provenance.get("backbone", name) != name:
        raise UserError(f"{source}: holds a {provenance['backbone']}, wanted is a {name}")
    if provenance.get("modality", modality) != modality:
        warn(f"{source}: trained on {provenance['modality']}, used for {modality}")
    return backbone, provenance


def load(backbone: Backbone, path: Path) -> dict[str, Any]:
    """Load a checkpoint into a backbone, every tensor of it.

    Args:
        backbone: Built with as many input channels as it will read. It becomes the variant that
            the file holds, and expects its input as those weights do.
        path: The checkpoint. A first convolution for three channels is summed into one for one
            channel, which is the same as showing grey as red, green and blue; one for five pairs
            of flow into one for a pair, the same as showing it five times.

    Returns:
        The provenance: ``sha256``, ``layout``, ``pretraining``, ``num_loaded``, ``ignored`` keys,
        and ``num_counters_missing``, counters of batches that evaluation never reads.

    Raises:
        UserError: As :func:`read`, another architecture, or keys missing, left over or of another
            shape; the message lists them.
    """
    contents = read(path)
    layout = contents.layout
    if layout and layout.architecture != backbone.architecture:
        reason = " (it was trained without the temporal shift)" * (layout.architecture == "tsn")
        raise UserError(
            f"{path}: holds weights of {layout.architecture} in the layout {layout.name}{reason}, "
            f"wanted are weights of {backbone.architecture}"
        )
    if layout and layout.name == "torchvision":
        warn(f"{path}: {layout.pretraining}")
    tensors = dict(contents.tensors)
    backbone.adapt_to(set(tensors))
    wanted = backbone.state_dict()
    adapted = _adapt_first_convolutions(tensors, wanted)
    if problems := differences(tensors, wanted):
        fitting = fits(contents)
        hint = f"; they fit {', '.join(fitting)}" if fitting else ""
        raise UserError(f"{path}: the weights do not fit this backbone; keys {problems}{hint}")
    # A scratch counter that evaluation never reads; PyTorch 0.3 did not write it.
    counters = {key: value for key, value in wanted.items() if _is_counter(key)}
    backbone.load_state_dict(counters | tensors)
    _set_normalisation(backbone, contents)
    provenance = contents.provenance | {
        "sha256": content_hash(path),
        "num_loaded": len(tensors),
        "num_counters_missing": len(counters.keys() - tensors.keys()),
        "ignored": contents.ignored,
    }
    if adapted:
        provenance["first_convolution"] = adapted
    if any("flow" in how for how in adapted.values()):
        warn(f"{path}: trained on 5 pairs of flow, shown one; modality.flow.stack=5 shows five")
    return provenance


def read(path: Path) -> Contents:
    """Read a checkpoint and recognise its layout by its key names.

    Files of our own hold ``{"layout": "tad-distill", "backbone": NAME, "modality": NAME,
    "state_dict": {...}, "pretraining": {...}}``, ``"normalisation"`` if it is not the backbone's
    usual one, ``"copy"`` if the last stage is one that was trained apart, and ``"fine_tuned"``
    where a detector was trained with it.

    Raises:
        UserError: No such file, not a checkpoint of plain tensors, or an unknown layout.
    """
    content = read_checkpoint(path)
    if content.get("layout") == OWN_LAYOUT:
        provenance = {key: content[key] for key in ("layout", "backbone", "modality")}
        provenance["pretraining"] = content.get("pretraining", {})
        provenance |= {key: content[key] for key in ("copy", "fine_tuned") if key in content}
        return Contents(
            layout=None,
            tensors=dict(content["state_dict"]),
            ignored=[],
            provenance=provenance,
            normalisation=content.get("normalisation", ""),
        )
    named = tensors_of(content)
    layout = _recognise(path, named)
    ignored = sorted(key for key in named if re.match(layout.ignored, key))
    return Contents(
        layout=layout,
        tensors={layout.ours(key): named[key] for key in named if key not in ignored},
        ignored=ignored,
        provenance={"layout": layout.name, "pretraining": layout.pretraining},
    )


def fits(contents: Contents) -> list[str]:
    """Names of the backbones that a file's weights fit to the last key."""
    found = []
    for name, make in variants().items():
        file = make.__module__.rpartition(".")[2]
        if contents.layout and contents.layout.architecture != file:
            continue
        if contents.provenance.get("backbone", name) != name:
            continue
        with torch.device("meta"):
            backbone = make()
            if contents.channels not in (0, 3):
                backbone.adapt_channels(contents.channels)
            backbone.adapt_to(set(contents.tensors))
        if not differences(contents.tensors, backbone.state_dict()):
            found.append(name)
    return found


def differences(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What is wrong with tensors for a state dict: the keys concerned; "" if nothing is."""
    missing = [k for k in wanted if k not in tensors and not _is_counter(k)]
    left_over = [k for k in tensors if k not in wanted]
    shapes = [
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in tensors and tensors[k].shape != wanted[k].shape
    ]
    problems = (("missing", missing), ("left over", left_over), ("of another shape", shapes))
    return "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems if keys)


def _recognise(path: Path, named: Mapping[str, Tensor]) -> Layout:
    for layout in layouts():
        if layout.holds(named):
            return layout
    known = ", ".join([OWN_LAYOUT, *(layout.name for layout in layouts())])
    has = f"it has keys like {_some(list(named))}" if named else "it has no tensors"
    if "conv3d_1a_7x7.conv3d.weight" in named:
        has = "it is hassony2's port of I3D, which pads otherwise; take pytorch-i3d's file"
    raise UserError(f"{path}: the layout is none of {known}; {has}")


def _set_normalisation(backbone: Backbone, contents: Contents) -> None:
    """Let the backbone expect its input as the weights do."""
    if contents.layout is None:
        given: Any = contents.normalisation
    elif contents.channels in _FLOW_CHANNELS:
        given = contents.layout.of_flow
    else:
        given = contents.layout.normalisation
    if given:
        backbone.normalisation = given


def _adapt_first_convolutions(
    tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, str]:
    """Sum first convolutions over equal inputs; returns what was done, by key."""
    done = {}
    for key, value in wanted.items():
        given = tensors.get(key)
        if given is None or value.ndim < 4 or given.shape[2:] != value.shape[2:]:
            continue
        if (given.shape[1], value.shape[1]) == (3, 1):
            tensors[key] = given.sum(1, keepdim=True)
            done[key] = "summed over its 3 input channels"
        elif (given.shape[1], value.shape[1]) == (10, 2):
            tensors[key] = given.unflatten(1, (5, 2)).sum(1)
            done[key] = "summed over its 5 pairs of flow"
    return done


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _some(keys: list[str], at_most: int = 5) -> str:
    more = f" and {len(keys) - at_most} more" if len(keys) > at_most else ""
    return ", ".join(keys[:at_most]) + more
