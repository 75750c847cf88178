"""Writes the trained cascade as a folder of DeepFloyd IF's parts, which `--model FOLDER` takes, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.deepfloyd_if.pipeline_if import IFPipeline
from diffusers.pipelines.deepfloyd_if.pipeline_if_superresolution import IFSuperResolutionPipeline
from transformers import CLIPModel, T5EncoderModel, T5Tokenizer

from imagic_cli.backends.source import BUNDLED_CLIP
from imagic_cli.sketchbook import cascade_networks as networks
from imagic_cli.sketchbook.cascade_networks import Reader
from imagic_cli.sketchbook.export import load_as_float32, write_card
from imagic_cli.sketchbook.loop import load_average
from imagic_cli.sketchbook.networks import Sizes

LESSONS = ("cascade-text", "cascade-base", "cascade-sr")
# Where the predicted clean picture is thresholded: IF's own numbers.
BASE_LARGEST, LARGEST = 1.5, 1.0


def untrained_reader(out: Path, sizes: Sizes) -> tuple[T5Tokenizer, Reader]:
    """The tokenizer, also left in `out`, and the text encoder beside the bundled model's CLIP."""
    tokenizer = networks.tokenizer(out / "cascade-tokenizer")
    clip = CLIPModel.from_pretrained(BUNDLED_CLIP, dtype=torch.float32)
    return tokenizer, Reader(networks.text_encoder(sizes, len(tokenizer)), sizes.t5_width, clip)


def trained_text_encoder(out: Path, sizes: Sizes) -> tuple[T5Tokenizer, T5EncoderModel]:
    """The tokenizer and the averaged text encoder of `out`. Raises FileNotFoundError."""
    tokenizer, reader = untrained_reader(out, sizes)
    load_average(reader, out / "cascade-text.safetensors")
    return tokenizer, reader.text_encoder.eval().requires_grad_(False)


def export_cascade(out: Path, sizes: Sizes) -> Path:
    """Writes `out`/cascade from the checkpoints in `out`: fp16 safetensors, a stock pipeline in each of two folders.

    Raises FileNotFoundError when one of the three networks has not been trained yet.
    """
    folder = out / "cascade"
    tokenizer, text_encoder = trained_text_encoder(out, sizes)
    unet = networks.base(sizes).eval()
    load_average(unet, out / "cascade-base.safetensors")
    above = networks.super_resolution(sizes).eval()
    load_average(above, out / "cascade-sr.safetensors")
    none: dict[str, Any] = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    base: dict[str, Any] = none | {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder.half(),
        "unet": unet.half(),
        "scheduler": networks.schedule(BASE_LARGEST),
    }
    IFPipeline(**base, requires_safety_checker=False).save_pretrained(folder / "base")
    load_as_float32(folder / "base" / "text_encoder" / "config.json")
    # IF's is published with its base's text encoder once more; nothing reads it.
    super_resolution: dict[str, Any] = none | {
        "tokenizer": None,
        "text_encoder": None,
        "unet": above.half(),
        "scheduler": networks.schedule(LARGEST),
        "image_noising_scheduler": networks.noising(),
    }
    IFSuperResolutionPipeline(**super_resolution, requires_safety_checker=False).save_pretrained(
        folder / "super-resolution"
    )
    write_card(folder, CARD, out, LESSONS)
    return folder


CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# sketchbook cascade

A small pixel cascade in the layout of DeepFloyd IF, trained from nothing on the scenes that the sketchbook model is
trained on (`imagic_cli/sketchbook/scenes.py`). It knows nothing but these drawings; it is there so that an edit by a
cascade can be seen, and judged against a known answer, without a GPU, a download or an account.

- `base/`: a T5 encoder with one token for each word of the scenes' grammar, trained to tell which caption belongs to
  which scene beside the sketchbook model's CLIP, then left as it is; and a UNet of 32 x 32 pixels.
- `super-resolution/`: a UNet of 128 x 128 pixels, given the smaller picture noised to a level that it is told.
- Size: {size:.1f} MB, fp16. Prediction: velocity. The channels of a variance are there, as in IF, and are 0: the
  middle of their range; no loss trained them.
- Data: scenes of the training split, one wording of many for each step. It lacks some combinations of attributes.
- Measured on the held-out split, averaged weights, at the end of training:

| network | steps | hours | figures |
|---|---|---|---|
{rows}

Made by `python -m imagic_cli.sketchbook.train cascade-text|cascade-base|cascade-sr --out DIR`.
"""
