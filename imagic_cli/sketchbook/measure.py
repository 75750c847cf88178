"""Measures an exported model on scenes it was not trained on: `python -m imagic_cli.sketchbook.measure MODEL`.

Prints the figures as JSON and writes them into the model's card.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.deepfloyd_if.pipeline_if import IFPipeline
from diffusers.pipelines.deepfloyd_if.pipeline_if_superresolution import IFSuperResolutionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor

from imagic_cli.backends.schedulers import pixel_sampler
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.sketchbook import lesson_cascade as cascade
from imagic_cli.sketchbook.corpus import tensor
from imagic_cli.sketchbook.denoising import GUIDANCE
from imagic_cli.sketchbook.judge import CLASSES, Judge, agreement, load, truth
from imagic_cli.sketchbook.lesson_judge import accuracy
from imagic_cli.sketchbook.scenes import Scene, drawn, held_out, sample

_HEAD = "\n## Measured\n"
_STEPS = 25
_BATCH = 20

Figures = dict[str, float]


Painter = Callable[[list[str], list[torch.Generator]], Tensor]
"""Captions, and for each where its noise comes from, to pictures (B, 3, H, W) in [-1, 1]."""


def figures(folder: Path, scenes: int, captions: int) -> Figures:
    """Every figure of the model in `folder`: over `scenes` held-out scenes, and `captions` of the test split."""
    said = [sample(i, "test") for i in range(captions)]
    if (folder / "base").is_dir():
        return text_to_image(cascade_painter(folder), load(), said)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    judge = load()
    clean = torch.cat([tensor([drawn("heldout", i)]) for i in range(scenes)])
    back = round_trip(pipeline.vae, clean)
    ratios = 10 * torch.log10(4 / (back - clean).square().mean(dim=(1, 2, 3)))
    plain = torch.tensor([sample(i, "heldout").style == "plain" for i in range(scenes)])
    found = {"vae_psnr_db": float(ratios.mean()), "vae_psnr_plain_db": float(ratios[plain].mean())}
    found |= {f"judge_{name}": share for name, share in accuracy(judge, clean).items()}
    found |= {f"judge_round_trip_{name}": share for name, share in accuracy(judge, back).items()}
    found["clip_right_of_64"] = right_captions(ClipScore(folder / "clip"))

    def paint(texts: list[str], noise: list[torch.Generator]) -> Tensor:
        made = pipeline(texts, num_inference_steps=_STEPS, guidance_scale=GUIDANCE, generator=noise, output_type="pt")
        pictures: Tensor = made.images.mul(2).sub(1)
        return pictures

    return found | text_to_image(paint, judge, said)


def cascade_painter(folder: Path) -> Painter:
    """The cascade in `folder`, by diffusers' own pipelines for DeepFloyd IF."""
    base: Any = IFPipeline.from_pretrained(folder / "base")
    above: Any = IFSuperResolutionPipeline.from_pretrained(folder / "super-resolution")
    for each in (base, above):
        each.scheduler = pixel_sampler("ddim", each.scheduler.config)
        each.set_progress_bar_config(disable=True)

    def paint(texts: list[str], noise: list[torch.Generator]) -> Tensor:
        told, null = base.encode_prompt(texts)
        usual: dict[str, Any] = {"prompt_embeds": told, "negative_prompt_embeds": null, "output_type": "pt"}
        usual |= {"num_inference_steps": _STEPS, "generator": noise}
        small = base(guidance_scale=cascade.BASE_GUIDANCE, **usual).images
        told_level = {"guidance_scale": cascade.GUIDANCE, "noise_level": cascade.NOISE_LEVEL}
        pictures: Tensor = above(image=small, **told_level, **usual).images
        return pictures

    return paint


def round_trip(vae: Any, clean: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] through the autoencoder."""
    with torch.inference_mode():
        parts = [vae.decode(vae.encode(some).latent_dist.mean).sample.clamp(-1, 1) for some in clean.split(16)]
    return torch.cat(parts)


def right_captions(clip: ClipScore) -> float:
    """How often the right one of 64 captions scores highest with a held-out scene."""
    pictures = [sample(i, "heldout").draw() for i in range(64)]
    scores = np.array([clip(pictures, sample(i, "heldout").caption()) for i in range(64)])
    return float((scores.argmax(axis=0) == np.arange(64)).mean())


def text_to_image(paint: Painter, judge: Judge, scenes: Sequence[Scene]) -> Figures:
    """How often the judge sees each field as the full caption of a scene says it; with combinations never trained."""
    right: dict[str, list[bool]] = {name: [] for name in CLASSES}
    unseen: list[bool] = []
    for start in range(0, len(scenes), _BATCH):
        some = scenes[start : start + _BATCH]
        noise = [torch.Generator().manual_seed(start + i) for i in range(len(some))]
        pictures = paint([scene.caption() for scene in some], noise)
        for scene, seen in zip(some, judge.see(pictures), strict=True):
            same = agreement(seen, truth(scene))
            for name, is_right in same.items():
                right[name].append(is_right)
            if held_out(scene):
                unseen.append(all(same.values()))
    found = {f"text_to_image_{name}": sum(each) / len(each) for name, each in right.items()}
    if unseen:
        found["text_to_image_all_of_unseen_combinations"] = sum(unseen) / len(unseen)
    return found | {"captions": len(scenes), "captions_with_unseen_combinations": len(unseen)}


def note(folder: Path, found: Figures) -> None:
    """Writes the figures into the model's card, in place of earlier ones."""
    card = folder / "README.md"
    lines = [f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in found.items()]
    table = "\n".join(["| figure | value |", "|---|---|", *lines])
    said = "Held-out scenes; text to image by the judge, a classifier that no training and no choice has used."
    body = card.read_text(encoding="utf-8").partition(_HEAD)[0]
    card.write_text(f"{body}{_HEAD}\n{said}\n\n{table}\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m imagic_cli.sketchbook.measure", description=__doc__)
    parser.add_argument(
        "model", type=Path, help="folder in diffusers layout, with clip/ beside its parts, or a cascade"
    )
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--captions", type=int, default=500)
    given = parser.parse_args(arguments)
    found = figures(given.model, given.scenes, given.captions)
    note(given.model, found)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
