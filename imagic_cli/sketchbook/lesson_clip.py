"""What CLIP learns, and the text encoder of the cascade: which caption belongs to which scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import nn
from transformers import CLIPModel, CLIPTokenizer, T5Tokenizer

from imagic_cli.sketchbook.cascade_networks import Reader
from imagic_cli.sketchbook.corpus import Pictures, floats, stacked, tensor
from imagic_cli.sketchbook.grid import grid
from imagic_cli.sketchbook.scenes import sample
from imagic_cli.sketchbook.tokens import token_ids

# What Stable Diffusion's own CLIP expects of its pictures; the exported image processor says the same.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def pixel_values(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] normalized as CLIP's image processor does."""
    mean, std = (torch.tensor(numbers, device=pictures.device).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    return ((pictures + 1) / 2 - mean) / std


def variants(count: int, rng: torch.Generator) -> list[int]:
    """`count` caption variants: which wording of the same scene a step sees."""
    return torch.randint(2**31, (count,), generator=rng).tolist()


class Captioned(NamedTuple):
    """Scenes, uint8 (B, H, W, 3), and the token ids (B, length) of one wording of each."""

    pixels: torch.Tensor
    ids: torch.Tensor


@dataclass
class ClipLesson:
    """Trains on `pictures` of the training split, measured on `heldout`: uint8 (N, H, W, 3) both."""

    network: CLIPModel | Reader
    tokenizer: CLIPTokenizer | T5Tokenizer
    pictures: Pictures
    heldout: Pictures
    batch: int = 96
    name: str = "clip"

    def draw(self, rng: torch.Generator) -> Captioned:
        """Scenes and one wording of each."""
        chosen = torch.randint(len(self.pictures), (self.batch,), generator=rng).tolist()
        said = variants(self.batch, rng)
        captions = [sample(i, "train").caption(variant) for i, variant in zip(chosen, said, strict=True)]
        ids = token_ids(self.tokenizer, captions)
        # CLIP pads with its end token, which the text tower reads from: one of them stays behind the longest caption.
        longest = int((ids != self.tokenizer.pad_token_id).sum(dim=1).max()) + 1
        return Captioned(stacked([self.pictures[i] for i in chosen]), ids[:, :longest])

    def loss(self, drawn: Captioned) -> torch.Tensor:
        """The symmetric contrastive loss of a batch."""
        clean = floats(drawn.pixels, self.network.device)
        ids = drawn.ids.to(clean.device)
        loss: torch.Tensor = self.network(input_ids=ids, pixel_values=pixel_values(clean), return_loss=True).loss
        return loss

    def measure(self, network: nn.Module) -> dict[str, float]:
        """How often the right caption of 64 is the nearest to its held-out scene, the full plain sentence."""
        assert isinstance(network, (CLIPModel, Reader))
        right = 0
        for start in range(0, len(self.heldout), 64):
            logits = self._logits(network, start).cpu()
            right += int((logits.argmax(dim=1) == torch.arange(len(logits))).sum())
        return {"right_of_64": right / len(self.heldout), "temperature": float(network.logit_scale.exp())}

    def _logits(self, network: CLIPModel | Reader, start: int) -> torch.Tensor:
        pixels = tensor(list(self.heldout[start : start + 64]), network.device)
        captions = [sample(start + i, "heldout").caption() for i in range(len(pixels))]
        ids = token_ids(self.tokenizer, captions).to(network.device)
        logits: torch.Tensor = network(input_ids=ids, pixel_values=pixel_values(pixels)).logits_per_image
        return logits

    def picture(self, network: nn.Module) -> Image.Image:
        """Held-out scenes, each above the scene whose caption it is taken for."""
        assert isinstance(network, (CLIPModel, Reader))
        clean = tensor(list(self.heldout[:64]), network.device)
        taken = self._logits(network, 0).argmax(dim=1)
        return grid([*clean[:8], *clean[taken[:8]], *clean[8:16], *clean[taken[8:16]]], 8)
