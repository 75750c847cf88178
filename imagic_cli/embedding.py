"""A text embedding: what stage A optimises and stage C interpolates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embedding:
    """One text, as a denoiser sees it.

    Attributes:
        tokens: (1, T, d), one vector per token: 77 x 768 for Stable Diffusion 1.x.
        pooled: (1, p), one vector for the whole text, where the family has one (SDXL), else None.
        upscaler: (1, U, u), the text by the encoder of the upscaler that ends a cascade (DeepFloyd IF), else None. That
            denoiser is never trained and follows a text as it is: nothing optimised or interpolated has this part.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    upscaler: Tensor | None = None

    def lerp(self, target: Embedding, eta: float) -> Embedding:
        """eta * target + (1 - eta) * self: e_bar when self is e_opt (Imagic, section 3.2, eq. 3); any real eta."""
        return Embedding(
            eta * target.tokens + (1 - eta) * self.tokens,
            None if self.pooled is None or target.pooled is None else eta * target.pooled + (1 - eta) * self.pooled,
        )

    def leaves(self) -> Embedding:
        """A copy of what stage A optimises, in fp32 at least, whose tensors require gradients."""

        def leaf(part: Tensor) -> Tensor:
            return part.detach().to(torch.promote_types(part.dtype, torch.float32), copy=True).requires_grad_()

        return replace(self, upscaler=None)._map(leaf)

    def detach(self) -> Embedding:
        """The same values, cut from the graph."""
        return self._map(lambda part: part.detach())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Embedding:
        """The same values elsewhere or in another precision."""
        return self._map(lambda part: part.to(device=device, dtype=dtype))

    def expand(self, batch: int) -> Embedding:
        """Views of (batch, ...) for a batch of one text."""
        return self._map(lambda part: part.expand(batch, *part.shape[1:]))

    def tensors(self) -> dict[str, Tensor]:
        """The parts by name, without absent ones."""
        parts = {"tokens": self.tokens, "pooled": self.pooled, "upscaler": self.upscaler}
        return {name: part for name, part in parts.items() if part is not None}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Embedding:
        """The inverse of `tensors`."""
        return Embedding(tensors["tokens"], tensors.get("pooled"), tensors.get("upscaler"))

    @staticmethod
    def stack(embeddings: list[Embedding]) -> Embedding:
        """(B, T, d) and so on from B embeddings of one text each."""
        parts = [each.tensors() for each in embeddings]
        return Embedding.of({name: torch.cat([each[name] for each in parts]) for name in parts[0]})

    def _map(self, change: Callable[[Tensor], Tensor]) -> Embedding:
        return Embedding.of({name: change(part) for name, part in self.tensors().items()})
