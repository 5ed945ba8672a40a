"""How weights move: parameter groups, learning rate of each step, averaged weights.

The default recipe is ActionFormer's (libs/utils/train_utils.py and lr_schedulers.py at 61ea7eb):
AdamW with decay on the weights of linear and convolution layers only, linear warm-up and cosine
per iteration, and an exponential moving average that is evaluated instead of the last weights.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

FINAL_LR = 1e-8


@runtime_checkable
class Paced(Protocol):
    """A module with parameters that learn more slowly: a head, a backbone in the loop."""

    def lr_scales(self) -> dict[str, float]:
        """The share of the learning rate of each such parameter, by its name in the module."""


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in two groups, with and without weight decay, or more.

    What decays are the weights of products: parameters named ``weight`` with two or more axes, of
    linear, convolution and attention layers, torch's own or ours. Biases, norms, scales,
    embeddings and everything else do not. Parameters for which a module names a share of the
    learning rate (:class:`Paced`) have groups of their own, after the first two.

    Args:
        modules: Modules to train; a parameter that occurs twice is taken once.
        weight_decay: Of the first group.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr_scale``, which
        :func:`set_learning_rate` reads.
    """
    trained: dict[int, nn.Parameter] = {}
    decayed: set[int] = set()
    scales: dict[int, float] = {}
    for root in modules:
        for module in root.modules():
            if isinstance(module, Paced):
                shares = module.lr_scales()
                scales |= {id(module.get_parameter(name)): shares[name] for name in shares}
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                trained[id(parameter)] = parameter
                product = name.endswith("weight") and parameter.ndim > 1
                if product and not isinstance(module, nn.Embedding):
                    decayed.add(id(parameter))
    kinds = [
        (decays, scale)
        for scale in (1.0, *sorted(set(scales.values()) - {1.0}))
        for decays in (True, False)
    ]
    return [
        {
            "params": [
                parameter
                for key, parameter in trained.items()
                if (key in decayed, scales.get(key, 1.0)) == kind
            ],
            "weight_decay": weight_decay if kind[0] else 0.0,
            "lr_scale": kind[1],
        }
        for kind in kinds
    ]


def learning_rate(step: int, *, base: float, num_warmup: int, num_steps: int) -> float:
    """The learning rate of a step: linear from 0 to ``base``, then a cosine down to 1e-8.

    As in ActionFormer the warm-up's first step has rate 0 and its last one ``base``.

    Args:
        step: 0 is the first step.
        base: The highest rate.
        num_warmup: Steps of the warm-up; 0 for none.
        num_steps: Steps of the whole run, warm-up included.

    >>> [learning_rate(k, base=1.0, num_warmup=3, num_steps=5) for k in range(3)]
    [0.0, 0.5, 1.0]
    """
    if step < num_warmup:
        return base * step / max(num_warmup - 1, 1)
    share = (step - num_warmup) / max(num_steps - num_warmup, 1)
    return FINAL_LR + (base - FINAL_LR) * (1 + math.cos(math.pi * share)) / 2


def stepped_learning_rate(
    step: int, *, base: float, num_warmup: int, drops: Sequence[int], factor: float
) -> float:
    """The learning rate of a step: warm-up, then constant, times ``factor`` at each drop.

    As torch's MultiStepLR, which TadTR and G-TAD use per epoch.

    Args:
        step: 0 is the first step.
        base: The highest rate.
        num_warmup: Steps of the warm-up; 0 for none.
        drops: The first steps of each lower rate.
        factor: How much lower.

    >>> [stepped_learning_rate(k, base=1.0, num_warmup=0, drops=[2], factor=0.5) for k in range(3)]
    [1.0, 1.0, 0.5]
    """
    if step < num_warmup:
        return base * step / max(num_warmup - 1, 1)
    return base * factor ** sum(step >= drop for drop in drops)


def make(
    kind: Literal["adamw", "adam"], groups: list[dict[str, Any]], lr: float
) -> torch.optim.Optimizer:
    """The optimiser of parameter groups.

    Args:
        kind: AdamW, whose decay stands beside the gradient, or Adam, whose decay is part of it.
        groups: See :func:`parameter_groups`.
        lr: The highest learning rate.
    """
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[kind](groups, lr=lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each parameter group its share of this rate."""
    for group in optimizer.param_groups:
        # A run that was saved before there were shares has none.
        group["lr"] = rate * group.get("lr_scale", 1.0)


class WeightAverage:
    """An exponential moving average of a module's parameters, starting from its first weights.

    Buffers are not averaged but copied: they count or remember, and a mean of them means nothing.

    Args:
        module: The module as initialised.
        decay: Share of the old average that a step keeps; 0 always gives the last weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the module's weights."""
        self.decay = decay
        self.state = {name: t.detach().clone() for name, t in module.state_dict().items()}
        self._parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for name, tensor in module.state_dict().items():
            if name in self._parameters:
                averages.append(self.state[name])
                currents.append(tensor)
            else:
                self.state[name].copy_(tensor)
        torch._foreach_lerp_(averages, currents, 1 - self.decay)
