"""The scale of a loss, without which small gradients underflow in fp16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

# As torch's GradScaler has them.
_FIRST_SCALE, _GROWTH_STEPS = 65536.0, 2000
_LOW_SCALE = 4096.0


class Scale:
    """What a loss is multiplied by before it is differentiated.

    In fp16 small gradients would underflow: the factor is as large as it can be, and moves as torch's GradScaler moves
    it. Elsewhere it is 1, and stays that.

    Args:
        dtype: what the denoiser computes in.
        device: where.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.moves = dtype == torch.float16
        self.factor, self.inverse = torch.ones((), device=device), torch.ones((), device=device)
        self._set(_FIRST_SCALE if self.moves else 1.0)

    def passed(self) -> None:
        """An update was made: after many in a row the factor is tried twice as large."""
        self.steady += 1
        if self.moves and self.steady == _GROWTH_STEPS:
            self._set(2 * self.value)

    def overflowed(self) -> bool:
        """A gradient is not finite: whether that may be the factor's fault, which is halved then."""
        if self.value <= 1:
            return False
        self._set(self.value / 2)
        return True

    @contextmanager
    def low(self) -> Iterator[None]:
        """A factor, meanwhile, at which a gradient hardly overflows."""
        self.factor.fill_(min(self.value, _LOW_SCALE))
        try:
            yield
        finally:
            self.factor.fill_(self.value)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of it, by GradScaler's names."""
        return {"scale": self.value, "_growth_tracker": self.steady} if self.moves else {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back what `state` gave."""
        if self.moves:
            self._set(state["scale"])
            self.steady = int(state["_growth_tracker"])

    def _set(self, value: float) -> None:
        self.value, self.steady = value, 0
        self.factor.fill_(value)
        self.inverse.fill_(1 / value)
