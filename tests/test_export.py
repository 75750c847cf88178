"""`imagic export`: what other programs make of its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import IFPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from drive import done, imagic
from PIL import Image
from safetensors.torch import load_file
from test_lora import ATTENTION, FAMILIES, LORA, RANK, tuned
from test_oracle import STEPS, optimized

from imagic_cli import container
from imagic_cli.artifacts import Embeddings, Samples, Weights
from imagic_cli.noise import Stream
from imagic_cli.run import Run
from imagic_cli.tuning import changes


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_makes_the_same_pictures_of_the_exported_file(photo: Path, models: Path, family: str) -> None:
    tuned(photo, models / family, "--steps", 40, "--lr", 0.03)
    done("generate", "--run", "run", "--eta", "0.7", "--seed", 3)
    assert done("export", "run", "--lora", "lora.safetensors").out.strip() == "lora.safetensors"
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(models / family)
    pipeline.set_progress_bar_config(disable=True)
    e_bar = Samples.load(Path("run/samples.safetensors")).content.embeddings["0.700"]
    null = Embeddings.load(Path("run/embeddings.safetensors")).content.null
    arguments = {"prompt_embeds": e_bar.tokens, "negative_prompt_embeds": null.tokens}
    if e_bar.pooled is not None:
        arguments |= {"pooled_prompt_embeds": e_bar.pooled, "negative_pooled_prompt_embeds": null.pooled}
    noise = torch.randn((1, 4, 4, 4), generator=Stream(3, "sample").at(0))
    options = {"latents": noise, "height": 32, "width": 32, "num_inference_steps": 50, "guidance_scale": 7.5}
    image = np.asarray(Image.open("run/images/eta-0.700_seed-0003.png"), dtype=int)
    without = np.asarray(pipeline(**arguments, **options).images[0], dtype=int)
    # Else the file could be empty.
    assert np.abs(image - without).max() > 5
    pipeline.load_lora_weights("lora.safetensors")
    loaded = np.asarray(pipeline(**arguments, **options).images[0], dtype=int)
    assert np.abs(image - loaded).max() <= 1


def test_the_exported_file_is_in_the_layout_of_kohya(photo: Path, models: Path) -> None:
    tuned(photo, models / "sd")
    done("export", "run", "--lora", "lora.safetensors")
    found, unet = load_file("lora.safetensors"), UNet2DConditionModel.from_pretrained(models / "sd" / "unet")
    layers = {f"lora_unet_{name.replace('.', '_')}" for name, _part in unet.named_modules() if name.endswith(ATTENTION)}
    parts = ("lora_down.weight", "lora_up.weight", "alpha")
    assert found.keys() == {f"{layer}.{part}" for layer in layers for part in parts}
    assert {found[f"{layer}.alpha"].item() for layer in layers} == {RANK}
    assert {found[f"{layer}.lora_down.weight"].shape[0] for layer in layers} == {RANK}
    content = Path("lora.safetensors").read_bytes()
    about = json.loads(container.safe_open("lora.safetensors", "pt").metadata()["imagic"])
    assert (about["rank"], about["alpha"], about["model"]) == (RANK, RANK, "sd")
    done("export", "run", "--lora", "lora.safetensors")
    done("export", "run", "--lora", "again.safetensors")
    assert Path("again.safetensors").read_bytes() == content


def test_a_cascade_exports_a_file_for_each_level_as_diffusers_does(photo: Path, models: Path) -> None:
    """DeepFloyd IF's UNets have no transformer blocks: with a level's file they predict what the tuned level does."""
    tuned(photo, models / "cascade", "--steps", 8, "--lr", 0.1)
    run = Run(Path("run"))
    levels = run.read_record().levels()
    done("export", "run", "--lora", "lora.safetensors")
    for level, part in zip(levels, ("base", "super-resolution"), strict=True):
        unet, twin = (UNet2DConditionModel.from_pretrained(models / "cascade" / part / "unet").eval() for _ in range(2))
        parameters = dict(twin.named_parameters())
        with torch.no_grad():
            for name, change in changes(Weights.load(run.weights_file(level)).content.of(level)):
                parameters[name].add_(change)
        side, channels = unet.config.sample_size, unet.config.in_channels
        inputs = (
            torch.randn(1, channels, side, side),
            torch.tensor([5]),
            torch.randn(1, 3, unet.config.encoder_hid_dim),
        )
        noise_level = {"class_labels": torch.tensor([3])} if unet.config.class_embed_type else {}
        expected, before = (each(*inputs, **noise_level).sample for each in (twin, unet))
        pipeline = IFPipeline(None, None, unet, None, None, None, None, requires_safety_checker=False)
        pipeline.load_lora_weights(f"lora-{level}.safetensors")
        assert (before - expected).abs().max() > 1e-2
        torch.testing.assert_close(unet(*inputs, **noise_level).sample, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported_says_what_to_do(photo: Path, models: Path) -> None:
    optimized(photo, models / "sd")
    result = imagic("export", "run", "--lora", "lora.safetensors")
    assert (result.code, "imagic finetune --method lora --run run" in result.err) == (4, True)
    done("finetune", "--run", "run", "--steps", 1)
    result = imagic("export", "run", "--lora", "lora.safetensors")
    assert (result.code, "imagic finetune --method lora --force --run run" in result.err) == (4, True)
    done("finetune", "--run", "run", "--steps", 1, "--force", *LORA)
    Path("lora.safetensors").write_bytes(b"mine")
    result = imagic("export", "run", "--lora", "lora.safetensors")
    assert (result.code, "--force" in result.err) == (2, True)
    assert Path("lora.safetensors").read_bytes() == b"mine"
    done("export", "run", "--lora", "lora.safetensors", "--force")
    done("optimize", "--run", "run", "--steps", STEPS + 1, "--force")
    result = imagic("export", "run", "--lora", "lora.safetensors", "--force")
    assert (result.code, "stale" in result.err) == (4, True)
