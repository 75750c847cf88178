"""The stages against a plain reference: the paper's formulas, written out over diffusers' own classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as UNet
from drive import done
from PIL import Image
from torch import Tensor

from imagic_cli.artifacts import Embeddings, Samples, Weights
from imagic_cli.embedding import Embedding
from imagic_cli.noise import Stream

FAMILIES = ["sd", "sdv", "sdxl"]
STEPS, RATE_A, RATE_B = 4, 2e-3, 1e-4
TEXT = "a bird spreading wings"


@dataclass
class Reference:
    """One model and one image, in float64, with nothing of the package but its random streams."""

    unet: Any
    clean: Tensor
    alphas: Tensor
    velocity: bool

    @staticmethod
    def of(folder: Path, image: Path) -> Reference:
        vae = AutoencoderKL.from_pretrained(folder / "vae").double().eval()
        pixels = torch.from_numpy(np.asarray(Image.open(image))).double().permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            clean = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        config = scheduler.config
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000, dtype=torch.float64) ** 2
        unet = UNet.from_pretrained(folder / "unet").double().eval()
        return Reference(unet, clean, torch.cumprod(1 - betas, 0), config.prediction_type == "v_prediction")

    def loss(self, tokens: Tensor, pooled: Tensor | None, generator: torch.Generator) -> Tensor:
        noise = torch.randn(self.clean.shape, generator=generator, dtype=torch.float32).double()
        position = torch.rand(1, generator=generator, dtype=torch.float64)
        t = int(position * 1000)
        a = self.alphas[t]
        x_t = a.sqrt() * self.clean + (1 - a).sqrt() * noise
        target = a.sqrt() * noise - (1 - a).sqrt() * self.clean if self.velocity else noise
        side = 8.0 * self.clean.shape[-1]
        ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float64)
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": ids}
        predicted = self.unet(x_t, torch.tensor([t]), tokens, added_cond_kwargs=added).sample
        return ((target - predicted) ** 2).mean()


def adam(leaves: list[Tensor], losses: Any, rate: float) -> list[float]:
    """Adam (Kingma and Ba, algorithm 1), in place; returns the losses."""
    first, second = ([torch.zeros_like(leaf) for leaf in leaves] for _ in range(2))
    told = []
    for step in range(1, STEPS + 1):
        loss = losses(step)
        gradients = torch.autograd.grad(loss, leaves)
        told.append(loss.item())
        with torch.no_grad():
            for leaf, g, m, v in zip(leaves, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                leaf -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return told


def logged(stage: str) -> list[float]:
    lines = [json.loads(line) for line in Path("run/logs", f"{stage}.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def optimized(photo: Path, folder: Path) -> None:
    done("optimize", photo, TEXT, "--model", folder, "--run", "run", "--steps", STEPS, "--lr", RATE_A, "--seed", 5)


def double(embedding: Embedding) -> tuple[Tensor, Tensor | None]:
    return embedding.tokens.double(), None if embedding.pooled is None else embedding.pooled.double()


@pytest.mark.parametrize("family", FAMILIES)
def test_stage_a_is_the_formula(photo: Path, models: Path, family: str) -> None:
    optimized(photo, models / family)
    reference = Reference.of(models / family, Path("run/image.png"))
    found = Embeddings.load(Path("run/embeddings.safetensors")).content
    tokens, pooled = double(found.target)
    leaves = [part.requires_grad_() for part in (tokens, pooled) if part is not None]
    stream = Stream(5, "train", "optimize", "base")
    told = adam(leaves, lambda step: reference.loss(tokens, pooled, stream.at(step)), RATE_A)
    np.testing.assert_allclose(logged("optimize"), told, rtol=2e-5)
    # Adam divides by the gradient's size: where that is near zero, fp32 rounding moves the step itself.
    moved = found.optimized.tokens.double() - found.target.tokens.double()
    expected = tokens.detach() - found.target.tokens.double()
    assert (moved - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_stage_b_is_the_formula(photo: Path, models: Path, family: str) -> None:
    optimized(photo, models / family)
    done("finetune", "--run", "run", "--steps", STEPS, "--lr", RATE_B, "--seed", 6, "--delta-dtype", "fp32")
    reference = Reference.of(models / family, Path("run/image.png"))
    tokens, pooled = double(Embeddings.load(Path("run/embeddings.safetensors")).content.optimized)
    leaves = dict(reference.unet.named_parameters())
    before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    stream = Stream(6, "train", "finetune", "base")
    told = adam(list(leaves.values()), lambda step: reference.loss(tokens, pooled, stream.at(step)), RATE_B)
    np.testing.assert_allclose(logged("finetune"), told, rtol=2e-5)
    deltas = Weights.load(Path("run/weights.safetensors")).content.of("base")
    assert deltas.keys() == leaves.keys()
    gap = sum(((deltas[name] - (leaf - before[name]).detach()) ** 2).sum() for name, leaf in leaves.items())
    size = sum(((leaf - before[name]).detach() ** 2).sum() for name, leaf in leaves.items())
    assert (gap / size).sqrt() < 2e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_stage_c_is_the_pipeline(photo: Path, models: Path, family: str) -> None:
    optimized(photo, models / family)
    done("finetune", "--run", "run", "--steps", STEPS, "--lr", RATE_B)
    done("generate", "--run", "run", "--eta", "0.7", "--seed", 3, "--scheduler", "ddim")
    found = Embeddings.load(Path("run/embeddings.safetensors")).content
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(models / family)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        for name, delta in Weights.load(Path("run/weights.safetensors")).content.of("base").items():
            pipeline.unet.get_parameter(name).add_(delta.float())
    tokens = 0.7 * found.target.tokens + 0.3 * found.optimized.tokens
    arguments = {"prompt_embeds": tokens, "negative_prompt_embeds": found.null.tokens}
    if found.target.pooled is not None:
        arguments["pooled_prompt_embeds"] = 0.7 * found.target.pooled + 0.3 * found.optimized.pooled
        arguments["negative_pooled_prompt_embeds"] = found.null.pooled
    noise = torch.randn((1, 4, 4, 4), generator=Stream(3, "sample").at(0))
    options = {"latents": noise, "height": 32, "width": 32, "num_inference_steps": 50, "guidance_scale": 7.5}
    expected = pipeline(**arguments, **options).images[0]
    image = np.asarray(Image.open("run/images/eta-0.700_seed-0003.png"), dtype=int)
    assert np.abs(image - np.asarray(expected, dtype=int)).max() <= 1
    latents = pipeline(**arguments, **options, output_type="latent").images
    saved = Samples.load(Path("run/samples.safetensors")).content
    torch.testing.assert_close(saved.clean["0.700", 3], latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(saved.embeddings["0.700"].tokens, tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_embeddings_are_the_pipelines(photo: Path, models: Path, family: str) -> None:
    optimized(photo, models / family)
    found = Embeddings.load(Path("run/embeddings.safetensors")).content
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(models / family)
    with torch.no_grad():
        parts = pipeline.encode_prompt(TEXT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    torch.testing.assert_close(found.target.tokens, parts[0])
    torch.testing.assert_close(found.null.tokens, parts[1])
    if family == "sdxl":
        torch.testing.assert_close(found.target.pooled, parts[2])
        torch.testing.assert_close(found.null.pooled, parts[3])
