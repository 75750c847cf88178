"""Random numbers that need no saved state, and the forward process that a model was trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """A random stream that can be read at any step without reading the ones before.

    Every generator lives on the CPU and depends only on these fields and the step: a resumed run draws what an
    undisturbed one would, the same seed means the same noise on every device, and two purposes never share noise.
    """

    seed: int
    purpose: str
    stage: str = ""
    level: str = ""

    def at(self, step: int) -> torch.Generator:
        """The generator of one step."""
        name = f"imagic/{self.seed}/{self.purpose}/{self.stage}/{self.level}/{step}"
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        return torch.Generator("cpu").manual_seed(number)


class Scheduler(Protocol):
    """The part of a diffusers scheduler that training needs."""

    config: object

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Schedule:
    """The model's own noise schedule and prediction type.

    Attributes:
        scheduler: a diffusers scheduler built from the model's scheduler config.
        timesteps: how many training timesteps it has.
        prediction: "epsilon", "v_prediction" or "sample".
    """

    scheduler: Scheduler
    timesteps: int
    prediction: str

    def corrupt(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t of shape (B, C, H, W) for clean samples and noise of that shape and timesteps of shape (B,)."""
        return self.scheduler.add_noise(clean, noise, timestep)

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the model predicts at x_t: eps in the paper's loss (eq. 2), or the model's own target in its place."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "v_prediction":
            return self.scheduler.get_velocity(clean, noise, timestep)
        return clean

    def draw(self, clean: Tensor, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise (batch, C, H, W) like `clean` (1, C, H, W), and timesteps (batch,) from [0, `timesteps`).

        With a batch of one the timestep is uniform, as in the paper. A larger batch is stratified: each entry is drawn
        from its own part of the range, which leaves every timestep equally likely and the mean loss less noisy.
        """
        noise = torch.randn((batch, *clean.shape[1:]), generator=generator, dtype=torch.float32)
        position = (torch.arange(batch) + torch.rand(batch, generator=generator, dtype=torch.float64)) / batch
        timestep = (position * self.timesteps).long().clamp(max=self.timesteps - 1)
        return noise.to(clean), timestep.to(clean.device)
