"""What the judge learns: to name a scene's fields, also where the picture is a little blurred, noisy or shifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from imagic_cli.sketchbook.corpus import Pictures, tensor
from imagic_cli.sketchbook.grid import grid
from imagic_cli.sketchbook.judge import CLASSES, Judge, agreement, labels, truth
from imagic_cli.sketchbook.scenes import sample

SHIFT = 6


class Answered(NamedTuple):
    """Disturbed pictures (B, 3, H, W) in [-1, 1], and the class numbers (B,) for each head."""

    pictures: Tensor
    right: dict[str, Tensor]


@dataclass
class JudgeLesson:
    """Trains on `pictures` of the judge's own split, measured on `heldout`: uint8 (N, H, W, 3) both."""

    network: Judge
    pictures: Pictures
    heldout: Pictures
    batch: int = 48
    name: str = "judge"

    def draw(self, rng: torch.Generator) -> Answered:
        """Disturbed pictures and what they show."""
        chosen = torch.randint(len(self.pictures), (self.batch,), generator=rng).tolist()
        seen = disturbed(tensor([self.pictures[i] for i in chosen]), rng)
        return Answered(seen, labels([sample(i, "judge") for i in chosen]))

    def loss(self, drawn: Answered) -> Tensor:
        """The sum of the heads' cross entropies."""
        device = next(self.network.parameters()).device
        losses = [
            F.cross_entropy(logits, drawn.right[name].to(device), label_smoothing=0.05)
            for name, logits in self.network(drawn.pictures.to(device)).items()
        ]
        return torch.stack(losses).sum()

    def measure(self, network: nn.Module) -> dict[str, float]:
        """The share of held-out scenes in which each field is seen right."""
        assert isinstance(network, Judge)
        return accuracy(network, self.heldout)

    def picture(self, network: nn.Module) -> Image.Image:
        """Disturbed training pictures: what the judge is asked to read."""
        clean = tensor(list(self.pictures[:16]), "cpu")
        return grid([*disturbed(clean, torch.Generator().manual_seed(0))], 8)


def accuracy(network: Judge, pictures: Pictures | Tensor) -> dict[str, float]:
    """The share of the first held-out scenes, shown as `pictures`, in which each field is seen right."""
    right: dict[str, list[bool]] = {name: [] for name in CLASSES}
    for start in range(0, len(pictures), 64):
        some = pictures[start : start + 64]
        shown = some if isinstance(some, Tensor) else tensor(list(some), next(network.parameters()).device)
        for i, seen in enumerate(network.see(shown)):
            for name, same in agreement(seen, truth(sample(start + i, "heldout"))).items():
                right[name].append(same)
    return {name: sum(each) / len(each) for name, each in right.items()}


def disturbed(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures shifted by up to `SHIFT` pixels, each blurred or not, brightened or darkened a little, with noise."""
    count, side = len(clean), clean.shape[-1]
    padded = F.pad(clean, (SHIFT,) * 4, mode="replicate")
    corners: Sequence[list[int]] = torch.randint(2 * SHIFT + 1, (count, 2), generator=rng).tolist()
    moved = torch.stack([padded[i, :, y : y + side, x : x + side] for i, (y, x) in enumerate(corners)])
    soft = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, 1)
    much = torch.rand((count, 1, 1, 1), generator=rng).to(clean.device)
    light = 1 + 0.1 * (torch.rand((count, 1, 1, 1), generator=rng) - 0.5).to(clean.device)
    strength = 0.15 * torch.rand((count, 1, 1, 1), generator=rng)
    noise = (torch.randn(clean.shape, generator=rng) * strength).to(clean.device)
    return (moved.lerp(soft, much) * light + noise).contiguous(memory_format=torch.channels_last)
