"""How published checkpoints name their tensors; one file per publisher.

A file provides ``LAYOUTS``. A key that no rule knows is an error when the file is loaded: a partial
load gives plausible, useless features.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from tad_distill.config import members
from tad_distill.extract.backbones import Normalisation

# Where a checkpoint's dict keeps its tensors, if not at its top.
CONTAINERS = ("state_dict", "model_state", "blobs")

Renames = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a family of checkpoints names its tensors.

    Attributes:
        name: For messages and provenance.
        architecture: The file of :mod:`tad_distill.extract.backbones` whose networks it fits.
        has: A key that matches this pattern is in every file of the layout, and in no other.
        axes: Of that tensor, where two layouts have equal names.
        renames: Pattern and replacement, applied in turn, to get the names of our backbone.
        ignored: Keys, before renaming, that a backbone does not need.
        pretraining: What such weights were trained on.
        normalisation: What the weights expect of colour; None: the backbone knows.
        of_flow: What they expect of flow.
    """

    name: str
    architecture: str
    has: str
    axes: int | None = None
    renames: Renames = ()
    ignored: str = field(default=r"(?!)")
    pretraining: str
    normalisation: Normalisation | None = None
    of_flow: Normalisation = "symmetric"

    def holds(self, named: Mapping[str, Tensor]) -> bool:
        """Whether tensors with these names are of this layout."""
        return any(
            re.match(self.has, key) and self.axes in (None, tensor.ndim)
            for key, tensor in named.items()
        )

    def ours(self, key: str) -> str:
        """Our name of a tensor."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


@cache
def layouts() -> tuple[Layout, ...]:
    """All layouts that can be recognised."""
    modules = (importlib.import_module(f"{__name__}.{name}") for name in members(__name__))
    return tuple(layout for module in modules for layout in module.LAYOUTS)


def tensors_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without what DataParallel puts in front."""
    state: Any = content
    for name in CONTAINERS:
        if isinstance(content.get(name), Mapping):
            state = content[name]
            break
    return {
        str(key).removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
