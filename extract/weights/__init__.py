"""Load backbone weights strictly, in the layouts that official checkpoints come in.

Every key of a file is loaded, or on its layout's short list of what may be left out (the
classifier), or an error: a partial load gives plausible, useless features. Files are read with
``weights_only=True``, so that a checkpoint cannot run code.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tad_distill.console import UserError, warn
from tad_distill.extract.backbones import Backbone, build
from tad_distill.extract.video import content_hash

OWN_LAYOUT = "tad-distill"
_RANDOM = re.compile(r"random:(\d+)")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a family of checkpoints names its tensors.

    Attributes:
        name: For messages and provenance.
        has: A key that matches this pattern is in every file of the layout, and in no other.
        renames: Pattern and replacement, applied in turn, to get our (torchvision's) names.
        ignored: Keys, before renaming, that a backbone does not need.
        pretraining: What such weights were trained on.
    """

    name: str
    has: str
    renames: tuple[tuple[str, str], ...]
    ignored: str
    pretraining: str


LAYOUTS = (
    Layout(
        name="mit-tsm",
        has=r"base_model\.layer1\.0\.conv1\.net\.weight$",
        renames=((r"^base_model\.", ""), (r"\.conv1\.net\.", ".conv1.")),
        ignored=r"new_fc\.",
        pretraining="as the file's source says (temporal-shift-module layout)",
    ),
    Layout(
        name="mmaction2-tsm",
        has=r"backbone\.layer1\.0\.conv1\.conv\.net\.weight$",
        renames=(
            (r"^backbone\.", ""),
            (r"downsample\.conv\.", "downsample.0."),
            (r"downsample\.bn\.", "downsample.1."),
            (r"(^|\.)conv(\d)\.conv\.(net\.)?", r"\1conv\2."),
            (r"(^|\.)conv(\d)\.bn\.", r"\1bn\2."),
        ),
        ignored=r"cls_head\.|data_preprocessor\.",
        pretraining="as the file's source says (mmaction2 TSM layout)",
    ),
    Layout(
        name="torchvision",
        has=r"layer1\.0\.conv1\.weight$",
        renames=(),
        ignored=r"fc\.",
        pretraining="imagenet, not Kinetics: pictures alone, the temporal shift was never trained",
    ),
)


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

    Files of our own hold ``{"layout": "tad-distill", "backbone": NAME, "modality": NAME,
    "state_dict": {...}, "pretraining": {...}}``, and ``"copy"`` beside them if the last stage is
    one that was trained apart; the others are recognised by their key names.

    Args:
        backbone: Built with as many input channels as it will read.
        path: The checkpoint. A first convolution for three channels is summed into one for one
            channel, which is the same as showing grey as red, green and blue.

    Returns:
        The provenance: ``sha256``, ``layout``, ``pretraining``, ``num_loaded``, ``ignored`` keys.

    Raises:
        UserError: No such file, not a checkpoint of plain tensors, an unknown layout, or keys
            missing, left over or of another shape; the message lists them.
    """
    content = read_checkpoint(path)
    if content.get("layout") == OWN_LAYOUT:
        tensors, ignored = dict(content["state_dict"]), []
        provenance = {key: content[key] for key in ("layout", "backbone", "modality")}
        provenance["pretraining"] = content.get("pretraining", {})
        if "copy" in content:
            provenance["copy"] = content["copy"]
    else:
        layout, named = _recognise(path, content)
        ignored = sorted(key for key in named if re.match(layout.ignored, key))
        tensors = {_rename(layout, key): named[key] for key in named if key not in ignored}
        provenance = {"layout": layout.name, "pretraining": layout.pretraining}
        if layout.name == "torchvision":
            warn(f"{path}: {layout.pretraining}")
    wanted = backbone.state_dict()
    adapted = _adapt_first_convolution(tensors, wanted)
    _check(path, tensors, wanted)
    # A scratch counter that evaluation never reads; PyTorch 0.3 did not write it.
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    backbone.load_state_dict(counters | tensors)
    provenance |= {"sha256": content_hash(path), "num_loaded": len(tensors), "ignored": ignored}
    if adapted:
        provenance["first_convolution"] = adapted
    return provenance


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's dict without running code from it.

    Raises:
        UserError: No such file, or not a dict of plain tensors and values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights ({error.strerror})") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: not a checkpoint of plain tensors; what else it holds is not loaded, since "
            "that could run code: save its state_dict alone"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a checkpoint's dict, found {type(content).__name__}")
    return content


def _recognise(path: Path, content: dict[str, Any]) -> tuple[Layout, dict[str, Tensor]]:
    state = content.get("state_dict", content)
    named = {
        str(key).removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    for layout in LAYOUTS:
        if any(re.match(layout.has, key) for key in named):
            return layout, named
    if any(key.startswith(("base_model.", "backbone.")) for key in named):
        reason = "its convolutions carry no '.net.': it was trained without the temporal shift"
    else:
        reason = f"it has keys like {_some(list(named))}"
    known = ", ".join([OWN_LAYOUT, *(layout.name for layout in LAYOUTS)])
    raise UserError(f"{path}: the layout is none of {known}; {reason}")


def _rename(layout: Layout, key: str) -> str:
    for pattern, replacement in layout.renames:
        key = re.sub(pattern, replacement, key)
    return key


def _adapt_first_convolution(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Sum a first convolution for 3 channels into one for 1; returns what was done, or ''."""
    for key, value in wanted.items():
        given = tensors.get(key)
        if given is None or value.ndim < 4:
            continue
        if value.shape[1] == 1 and given.shape[1] == 3 and value.shape[2:] == given.shape[2:]:
            tensors[key] = given.sum(1, keepdim=True)
            return f"{key} summed over its 3 input channels"
        return ""
    return ""


def _check(path: Path, tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    missing = [k for k in wanted if k not in tensors and not k.endswith("num_batches_tracked")]
    left_over = [k for k in tensors if k not in wanted]
    shapes = [
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in tensors and tensors[k].shape != wanted[k].shape
    ]
    problems = (("missing", missing), ("left over", left_over), ("of another shape", shapes))
    if found := [f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems if keys]:
        raise UserError(f"{path}: the weights do not fit this backbone; keys {'; '.join(found)}")


def _some(keys: list[str], at_most: int = 5) -> str:
    more = f" and {len(keys) - at_most} more" if len(keys) > at_most else ""
    return ", ".join(keys[:at_most]) + more
