"""A denoiser of a few numbers in the place of Stable Diffusion's, for tests where only files matter.

Everything around it is real: the command, the settings, the model's folder and identity, the stages, the artifacts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from imagic_cli.backends.base import Blank, Draw, Encoded, Level
from imagic_cli.backends.latent import LatentBackend
from imagic_cli.embedding import Embedding
from imagic_cli.noise import Stream

_SHARE = 8


class _Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 3 * 40).reshape(3, 40))
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x_t: Tensor, embedding: Embedding) -> Tensor:
        said = embedding.tokens.mean((1, 2))[:, None, None, None]
        return x_t * self.gain.mean(1)[:, None, None] + self.shift[:, None, None] + said


class _Codec:
    def encode(self, pixels: Tensor) -> Tensor:
        return avg_pool2d(pixels, _SHARE)

    def decode(self, clean: Tensor) -> Tensor:
        return interpolate(clean, scale_factor=_SHARE)

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 3, height // _SHARE, width // _SHARE


def _encode(_backend: LatentBackend, texts: Sequence[str | None], _device: object) -> list[Encoded]:
    return [Encoded(Embedding(torch.full((1, 7, 32), len(text or "") / 100))) for text in texts]


def _level(backend: LatentBackend, _precision: object, trainable: bool, _name: str = "base") -> Level:
    module = _Denoiser().requires_grad_(trainable)
    around = backend.around(module)
    return replace(around, predict=lambda x_t, _timestep, embedding, _guide=None: module(x_t, embedding))


def _blank(backend: LatentBackend, width: int, height: int, _name: str = "base") -> Blank:
    level = _level(backend, None, trainable=False)
    return Blank(level, torch.empty(1, 3, height // _SHARE, width // _SHARE), Embedding(torch.empty(1, 7, 32)))


def _render(
    _backend: LatentBackend,
    levels: Mapping[str, Level],
    draws: Sequence[Draw],
    _null: Embedding,
    sampling: Any,
    size: tuple[int, int],
    _precision: object,
    on_step: Callable[[], None],
) -> Tensor:
    for _ in range(sampling.steps):
        on_step()
    width, height = size
    with torch.no_grad():
        made = []
        for draw in draws:
            noise = torch.randn(_Codec().shape(width, height), generator=Stream(draw.seed, "sample").at(0))
            made.append(levels["base"].module(noise[None], draw.embedding))
        return torch.cat(made)


@contextlib.contextmanager
def denoiser() -> Iterator[None]:
    """Inside, this process and its forks load this one."""
    stand_ins = {"encode": _encode, "codec": lambda *_: _Codec(), "level": _level, "blank": _blank}
    stand_ins |= {"render": _render}
    real = {name: getattr(LatentBackend, name) for name in stand_ins}
    for name, stand_in in stand_ins.items():
        setattr(LatentBackend, name, stand_in)
    try:
        yield
    finally:
        for name, method in real.items():
            setattr(LatentBackend, name, method)
