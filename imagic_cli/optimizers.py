"""Adam, as it suits the device and the recipe: torch's kernel called directly, torch's own, or that of bitsandbytes."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from imagic_cli.config import TrainSettings
from imagic_cli.errors import UsageError

MOMENTS = "exp_avg", "exp_avg_sq"
"""What Adam keeps of each leaf beside the count of its steps, by torch's names."""


class Optimizer(Protocol):
    """What is asked of a torch.optim.Optimizer."""

    param_groups: list[dict[str, Any]]
    state: defaultdict[Tensor, Any]

    def step(self) -> object:
        """Update each tensor that has a gradient."""


class Adam:
    """Adam (Kingma and Ba, 2014, algorithm 1) by torch's fused kernel, called directly, on a processor.

    What torch.optim does around the kernel, for each tensor at each step, is a sixth of the bundled model's update.
    Bits, names and state are torch.optim.Adam's.

    Args:
        leaves: fp32, on the CPU.
        learning_rate: of each step.
    """

    def __init__(self, leaves: Sequence[Tensor], learning_rate: float) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(leaves), "lr": learning_rate, "betas": (0.9, 0.999), "eps": 1e-8}
        ]
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        self._counts, self._steps = torch.zeros(0), list[Tensor]()

    @torch.no_grad()
    def step(self) -> None:
        """Update each tensor that has a gradient; the first time, begin its state."""
        (group,) = self.param_groups
        present = [leaf for leaf in group["params"] if leaf.grad is not None]
        if not present:
            return
        states = [self.state[leaf] for leaf in present]
        # Else others have a gradient than before, or a state was restored.
        if [id(state.get("step")) for state in states] != [id(step) for step in self._steps]:
            self._begin(present, states)
        # At once: one by one they take as long as what surrounds the kernel.
        self._counts += 1
        means, squares = ([state[name] for state in states] for name in MOMENTS)
        torch._fused_adam_(
            present,
            [leaf.grad for leaf in present],
            means,
            squares,
            [],
            self._steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _begin(self, leaves: Sequence[Tensor], states: Sequence[dict[str, Any]]) -> None:
        self._counts = torch.tensor([float(state.get("step", 0)) for state in states], dtype=torch.float32)
        self._steps = list(self._counts.unbind())
        for leaf, state, step in zip(leaves, states, self._steps, strict=True):
            begin(leaf, state, step)


def begin(leaf: Tensor, state: dict[str, Any], step: Tensor) -> None:
    """Give a leaf's state, which may be empty, this count of steps, and moments where it has none."""
    for name in MOMENTS:
        state.setdefault(name, torch.zeros_like(leaf))
    state["step"] = step


def optimizer(settings: TrainSettings, leaves: list[Tensor]) -> Optimizer:
    """The one that the recipe names, over leaves that lie on one device."""
    if settings.optimizer == "adam":
        if leaves[0].device.type == "cpu":
            return Adam(leaves, settings.learning_rate)
        return torch.optim.Adam(leaves, lr=settings.learning_rate, fused=True)
    from bitsandbytes.optim import Adam8bit

    found: Optimizer = Adam8bit(leaves, lr=settings.learning_rate)
    return found


def check_optimizer(settings: TrainSettings) -> None:
    """Refuse an optimizer that is not installed, before anything is written.

    Raises:
        UsageError: it is not.
    """
    if settings.optimizer == "adam8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("--optimizer adam8bit needs bitsandbytes", "pip install 'imagic-cli[adam8bit]'")
