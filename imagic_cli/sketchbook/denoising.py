"""What every denoiser of scenes is trained and looked at with: worded captions, noise, and guided sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from imagic_cli.backends.base import Guide
from imagic_cli.sketchbook.lesson_clip import variants
from imagic_cli.sketchbook.loop import generator
from imagic_cli.sketchbook.scenes import sample

# A caption is dropped this often, so that guidance has an unconditional prediction to push away from.
DROPPED = 0.1
GUIDANCE = 4.0
SHOWN = (
    "a red bird perched on grass",
    "a bird spreading wings",
    "a blue bird flying at night",
    "two green parrots kissing",
    "two parrots apart in the snow",
    "a brown dog sitting on grass",
    "a dog jumping on sand",
    "an orange cat lying down in a room",
    "a goat jumping over a cat",
    "a white horse with a saddle on grass",
    "a zebra with its head down",
    "a person in a red shirt waving",
    "a person giving a thumbs up at night",
    "a person with crossed arms in autumn",
    "a chocolate cake with candles in a room",
    "a strawberry wedding cake",
    "a slice of pistachio cake on grass",
    "a round tree in autumn",
    "a tall tree in winter at night",
    "a blue house in winter",
    "a red house in spring on grass",
    "a bird by a waterfall",
    "a pencil sketch of a cat sitting",
    "a children's drawing of a house in summer",
)


class Task(NamedTuple):
    """Noisy samples (B, C, H, W), their timesteps (B,), and the velocity (B, C, H, W) to be told from them."""

    noisy: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor

    def to(self, device: torch.device) -> Task:
        """The same on another device."""
        return Task(*(each.to(device) for each in self))


class Told(NamedTuple):
    """A task, the ids (B, tokens) of what it is told to show, and what super-resolution is given beside."""

    task: Task
    ids: torch.Tensor
    guide: Guide | None = None


def noised(schedule: Any, clean: torch.Tensor, rng: torch.Generator) -> Task:
    """Noise on `clean` (B, C, H, W), at timesteps of `schedule` spread evenly within the batch."""
    count = len(clean)
    spread = (torch.arange(count) + torch.rand(count, generator=rng)) / count
    timesteps = (spread * schedule.config["num_train_timesteps"]).long()
    noise = torch.randn(clean.shape, generator=rng)
    noisy = schedule.add_noise(clean, noise, timesteps).contiguous(memory_format=torch.channels_last)
    return Task(noisy, timesteps, schedule.get_velocity(clean, noise, timesteps))


def worded(scenes: Sequence[int], rng: torch.Generator) -> list[str]:
    """One wording of each of these training scenes, or none at all."""
    said, dropped = variants(len(scenes), rng), torch.rand(len(scenes), generator=rng) < DROPPED
    return [
        "" if drop else sample(i, "train").caption(variant)
        for i, variant, drop in zip(scenes, said, dropped, strict=True)
    ]


def heldout_loss(
    lesson: str, count: int, error: Callable[[slice, list[str], torch.Generator], torch.Tensor]
) -> dict[str, float]:
    """The mean of `error` over the first `count` held-out scenes, with their full captions and always the same noise.

    `error` takes which of the scenes, their captions and where its noise comes from.
    """
    losses = []
    for start in range(0, count, 32):
        part = slice(start, min(start + 32, count))
        captions = [sample(i, "heldout").caption() for i in range(part.start, part.stop)]
        losses.append(float(error(part, captions, generator(f"{lesson} held out", start))))
    return {"heldout_loss": sum(losses) / len(losses)}


def sampled(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: Any,
    noise: torch.Tensor,
    guidance: float = GUIDANCE,
) -> torch.Tensor:
    """Samples (B, C, H, W) made from `noise` in 25 guided steps of `scheduler`.

    `predict` takes every sample twice, (2 B, C, H, W), and a timestep: first untold, then told its caption.
    """
    made = noise
    scheduler.set_timesteps(25)
    for timestep in scheduler.timesteps:
        free, told = predict(made.repeat(2, 1, 1, 1), timestep).chunk(2)
        made = scheduler.step(free + guidance * (told - free), timestep, made).prev_sample
    return made
