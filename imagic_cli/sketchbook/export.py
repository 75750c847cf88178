"""Writes the trained networks as a Stable Diffusion folder that the stock pipeline loads, with a model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from imagic_cli.sketchbook import networks
from imagic_cli.sketchbook.corpus import tensor
from imagic_cli.sketchbook.judge import Judge
from imagic_cli.sketchbook.lesson_clip import MEAN, STD
from imagic_cli.sketchbook.loop import load_average
from imagic_cli.sketchbook.networks import Sizes
from imagic_cli.sketchbook.scenes import SIZE, drawn

# How many training scenes the scaling factor is computed from.
SCALE_SCENES = 96
LESSONS = ("vae", "clip", "judge", "unet")


def trained_vae(out: Path, sizes: Sizes) -> tuple[AutoencoderKL, int]:
    """The averaged autoencoder of `out`, with its scaling factor in its config, and its step.

    Raises FileNotFoundError.
    """
    vae = networks.vae(sizes).eval().requires_grad_(False)
    step = int(load_average(vae, out / "vae.safetensors")["step"])
    vae.register_to_config(scaling_factor=latent_scale(vae))
    return vae, step


def trained_clip(out: Path, sizes: Sizes) -> tuple[CLIPTokenizer, CLIPModel]:
    """The tokenizer and the averaged CLIP of `out`. Raises FileNotFoundError."""
    tokenizer = networks.tokenizer(out / "tokenizer", sizes)
    clip = networks.clip(sizes, tokenizer.get_vocab()).eval().requires_grad_(False)
    load_average(clip, out / "clip.safetensors")
    return tokenizer, clip


def latent_scale(vae: AutoencoderKL) -> float:
    """What makes the latents of the first training scenes have unit variance, to four digits."""
    with torch.inference_mode():
        latents = [
            vae.encode(
                tensor([drawn("train", i) for i in range(start, min(start + 16, SCALE_SCENES))])
            ).latent_dist.mean
            for start in range(0, SCALE_SCENES, 16)
        ]
    return float(f"{1 / torch.cat(latents).std():.4g}")


def export(out: Path, sizes: Sizes) -> Path:
    """Writes `out`/model from the checkpoints in `out`: fp16 safetensors in the stock layout.

    Raises FileNotFoundError when one of the three networks has not been trained yet.
    """
    folder = out / "model"
    vae, _ = trained_vae(out, sizes)
    tokenizer, clip = trained_clip(out, sizes)
    unet = networks.unet(sizes).eval()
    load_average(unet, out / "unet.safetensors")
    parts: dict[str, Any] = {
        "vae": vae.half(),
        "text_encoder": clip.text_model.half(),
        "tokenizer": tokenizer,
        "unet": unet.half(),
        "scheduler": networks.scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    clip.half().save_pretrained(folder / "clip")
    # Saved anew rather than copied: the library keeps only its own tokenizer.json, other tools read the two word lists.
    for place in ("tokenizer", "clip"):
        networks.tokenizer(folder / place, sizes)
    for saved in ("text_encoder", "clip"):
        load_as_float32(folder / saved / "config.json")
    if (out / "judge.safetensors").exists():
        judge = Judge(sizes.judge)
        load_average(judge, out / "judge.safetensors")
        (folder / "judge").mkdir(exist_ok=True)
        save_file(judge.half().state_dict(), folder / "judge" / "judge.safetensors")
    size = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(
        do_resize=True, size=size, do_center_crop=False, crop_size=size, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder / "clip")
    write_card(folder, CARD, out, LESSONS)
    return folder


def load_as_float32(config: Path) -> None:
    """Transformers loads in the saved precision where diffusers loads in float32: one pipeline needs one of them."""
    text = config.read_text(encoding="utf-8").replace('"float16"', '"float32"')
    config.write_text(text, encoding="utf-8")


def write_card(folder: Path, card: str, out: Path, lessons: Sequence[str]) -> None:
    """Writes the model card of `folder`: what `out` says was measured, never what was hoped for."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    rows = []
    for name in lessons:
        if not (out / f"{name}.jsonl").exists():
            continue
        last = json.loads((out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        figures = ", ".join(f"{key} {value:.4g}" for key, value in last.items() if key not in ("step", "hours"))
        rows.append(f"| {name} | {last['step']} | {last['hours']:.2f} | {figures} |")
    (folder / "README.md").write_text(card.format(size=size, rows="\n".join(rows)), encoding="utf-8")


CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# sketchbook

A small latent diffusion model in the Stable Diffusion layout, trained from nothing on scenes that `imagic` draws itself
(`imagic_cli/sketchbook/scenes.py`): ten subjects with their poses, colours, settings and styles. It knows
nothing but these drawings; it is there so that an edit can be seen, and judged against a known answer, without a GPU,
a download or an account.

- Size: {size:.1f} MB, fp16. Pictures: 128 x 128. Latents: 4 x 16 x 16. Prediction: velocity.
- Data: scenes of the training split, one wording of many for each step. It lacks some combinations of attributes.
- `clip/` is the whole CLIP whose text tower conditions the UNet; it was trained contrastively on the same scenes.
- `judge/` is a classifier of scenes that no other part was trained or chosen with.
- Measured on the held-out split, averaged weights, at the end of training:

| network | steps | hours | figures |
|---|---|---|---|
{rows}

Made by `python -m imagic_cli.sketchbook.train vae|clip|judge|unet --out DIR`.
"""
