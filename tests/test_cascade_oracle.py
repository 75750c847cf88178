"""The cascade against a plain reference: the paper's formulas, and diffusers' own pipelines for DeepFloyd IF."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import IFPipeline, IFSuperResolutionPipeline, StableDiffusionUpscalePipeline
from diffusers import UNet2DConditionModel as UNet
from drive import done
from PIL import Image
from test_oracle import RATE_B, STEPS, TEXT, adam, logged
from torch import Tensor
from torch.nn.functional import interpolate

from imagic_cli import backends, onednn
from imagic_cli.artifacts import Embeddings, Samples, Weights
from imagic_cli.backends.base import Guide
from imagic_cli.backends.pixels import reduced
from imagic_cli.backends.source import find
from imagic_cli.config import ModelSource
from imagic_cli.image import to_tensor
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision

CPU = torch.device("cpu")
SR = "sr16-32"


def optimized(photo: Path, models: Path) -> Embeddings:
    done("optimize", photo, TEXT, "--model", models / "cascade", "--run", "run", "--steps", STEPS, "--seed", 5)
    return Embeddings.load(Path("run/embeddings.safetensors")).content


def cosine_alphas() -> Tensor:
    """Cumulated alphas of the cosine schedule (Nichol and Dhariwal, 2021), betas cut at 0.999."""

    def bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - bar((t + 1) / 1000) / bar(t / 1000), 0.999) for t in range(1000)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)


@dataclass
class Reference:
    """One level and the photograph as it sees it, in float64, with nothing of the package but its random streams."""

    unet: Any
    clean: Tensor
    alphas: Tensor
    low: Tensor | None

    @staticmethod
    def of(folder: Path, level: str) -> Reference:
        photo = torch.from_numpy(np.asarray(Image.open("run/image.png"))).double().permute(2, 0, 1)[None] / 127.5 - 1
        small = interpolate(photo, (16, 16), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        part = "base" if level == "base" else "super-resolution"
        unet = UNet.from_pretrained(folder / part / "unet").double().eval()
        if level == "base":
            return Reference(unet, small, cosine_alphas(), None)
        return Reference(
            unet, photo, cosine_alphas(), interpolate(small, (32, 32), mode="bilinear", align_corners=True)
        )

    def loss(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(self.clean.shape, generator=generator).double()
        t = int(torch.rand(1, generator=generator, dtype=torch.float64) * 1000)
        seen, labels = self.noised(self.clean, noise, t), None
        if self.low is not None:
            other = torch.randn(self.clean.shape, generator=generator).double()
            labels = torch.randint(1000, (1,), generator=generator)
            seen = torch.cat([seen, self.noised(self.low, other, int(labels))], dim=1)
        predicted = self.unet(seen, torch.tensor([t]), tokens, class_labels=labels).sample
        return ((noise - predicted[:, :3]) ** 2).mean()

    def noised(self, clean: Tensor, noise: Tensor, t: int) -> Tensor:
        return self.alphas[t].sqrt() * clean + (1 - self.alphas[t]).sqrt() * noise


def test_stage_a_is_the_formula(photo: Path, models: Path) -> None:
    found = optimized(photo, models)
    reference = Reference.of(models / "cascade", "base")
    tokens = found.target.tokens.double().requires_grad_()
    stream = Stream(5, "train", "optimize", "base")
    told = adam([tokens], lambda step: reference.loss(tokens, stream.at(step)), 1e-3)
    np.testing.assert_allclose(logged("optimize"), told, rtol=2e-5)
    moved = found.optimized.tokens.double() - found.target.tokens.double()
    expected = tokens.detach() - found.target.tokens.double()
    assert (moved - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.parametrize(("level", "log"), [("base", "finetune"), (SR, f"finetune-{SR}")])
def test_stage_b_is_the_formula(photo: Path, models: Path, level: str, log: str) -> None:
    found = optimized(photo, models)
    flags = ["--steps", STEPS, "--lr", RATE_B, "--seed", 6, "--delta-dtype", "fp32"]
    done("finetune", "--run", "run", "--level", level, *flags)
    reference = Reference.of(models / "cascade", level)
    tokens = (found.optimized if level == "base" else found.target).tokens.double()
    leaves = dict(reference.unet.named_parameters())
    before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    stream = Stream(6, "train", "finetune", level)
    told = adam(list(leaves.values()), lambda step: reference.loss(tokens, stream.at(step)), RATE_B)
    np.testing.assert_allclose(logged(log), told, rtol=2e-5)
    deltas = Weights.load(next(Path("run").glob("weights*.safetensors"))).content.of(level)
    assert deltas.keys() == leaves.keys()
    gap = sum(((deltas[name] - (leaf - before[name]).detach()) ** 2).sum() for name, leaf in leaves.items())
    size = sum(((leaf - before[name]).detach() ** 2).sum() for name, leaf in leaves.items())
    assert (gap / size).sqrt() < 5e-3


def pipelines(folder: Path) -> tuple[Any, Any, Any]:
    """diffusers' own, with the run's deltas in them."""
    base = IFPipeline.from_pretrained(folder / "base", text_encoder=None, tokenizer=None)
    above = IFSuperResolutionPipeline.from_pretrained(folder / "super-resolution")
    last = StableDiffusionUpscalePipeline.from_pretrained(folder / "upscaler")
    for each in (base, above, last):
        each.set_progress_bar_config(disable=True)
    for each in (base, above):
        # As ours on a processor: another order of memory rounds otherwise.
        each.unet.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for pipeline, level, name in ((base, "base", "weights"), (above, SR, f"weights-{SR}")):
            path = Path(f"run/{name}.safetensors")
            for parameter, delta in (Weights.load(path).content.of(level) if path.exists() else {}).items():
                pipeline.unet.get_parameter(parameter).add_(delta.float())
    return base, above, last


def test_stage_c_is_the_pipelines_one_after_the_other(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the pipelines' own kernels: guidance of random networks magnifies what oneDNN's differ by (test_replay.py).
    monkeypatch.setattr(onednn, "is_there", lambda: False)
    found = optimized(photo, models)
    done("finetune", "--run", "run", "--steps", STEPS, "--lr", RATE_B)
    for size in (16, 32, 64):
        done("generate", "--run", "run", "--eta", "0.7", "--seed", 3, "--steps", 5, "--size", size)
    base, above, last = pipelines(models / "cascade")
    e_bar = 0.7 * found.target.tokens + 0.3 * found.optimized.tokens

    def text(tokens: Tensor, null: Tensor, level: str, guidance: float) -> dict[str, Any]:
        told = {"prompt_embeds": tokens, "negative_prompt_embeds": null, "guidance_scale": guidance}
        return told | {"num_inference_steps": 5, "generator": [Stream(3, "sample", level=level).at(0)]}

    small = base(**text(e_bar, found.null.tokens, "base", 7.0), output_type="pt").images
    large = above(
        **text(found.target.tokens, found.null.tokens, SR, 4.0), image=small, noise_level=250, output_type="pt"
    ).images
    final = last(
        **text(found.target.upscaler, found.null.upscaler, "upscaler", 9.0), image=large / 2 + 0.5, noise_level=100
    ).images[0]
    wanted = {"steps-5_size-16": small, "steps-5_size-32": large}
    for variant, tensor in wanted.items():
        expected = ((tensor[0] / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        image = np.asarray(Image.open(f"run/variants/{variant}/images/eta-0.700_seed-0003.png"), dtype=int)
        assert np.abs(image - expected).max() <= 1
        saved = Samples.load(Path(f"run/variants/{variant}/samples.safetensors")).content
        torch.testing.assert_close(saved.clean["0.700", 3], tensor, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(saved.embeddings["0.700"].tokens, e_bar)
    image = np.asarray(Image.open("run/variants/steps-5/images/eta-0.700_seed-0003.png"), dtype=int)
    assert image.shape == (64, 64, 3)
    assert np.abs(image - np.asarray(final, dtype=int)).max() <= 1


@pytest.mark.parametrize("level", ["base", SR])
def test_a_levels_prediction_is_what_the_pipeline_computes(photo: Path, models: Path, level: str) -> None:
    found = optimized(photo, models)
    base, above, _last = pipelines(models / "cascade")
    seen: list[tuple[Any, Any, Any]] = []
    unet = (base if level == "base" else above).unet
    unet.register_forward_hook(lambda _unet, args, given, out: seen.append((args, given, out[0])), with_kwargs=True)
    call = {"prompt_embeds": found.target.tokens, "negative_prompt_embeds": found.null.tokens, "guidance_scale": 1.0}
    call |= {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    own = backends.load(find(ModelSource(source=str(models / "cascade")))).level(Precision("fp32", CPU), False, level)
    low = reduced(to_tensor(Image.open("run/image.png")), 2)
    base(**call) if level == "base" else above(**call, image=low, noise_level=123)
    assert len(seen) == 3
    for (model_input, t), given, output in seen:
        labels = given.get("class_labels")
        guide = None if level == "base" else Guide(model_input[:, 3:], labels)
        with torch.no_grad():
            predicted = own.predict(model_input[:, :3], t[None], found.target, guide)
        torch.testing.assert_close(predicted, output[:, :3], rtol=1e-5, atol=1e-5)
    if level == SR:
        # The picture that guides training is made as the pipeline makes its own, but for the level that it draws.
        drawn = torch.Generator().manual_seed(0)
        _first, noise = (torch.randn(1, 3, 32, 32, generator=drawn) for _ in range(2))
        up = interpolate(low, (32, 32), mode="bilinear", align_corners=True)
        alpha = cosine_alphas()[123].float()
        torch.testing.assert_close(seen[0][0][0][:, 3:], alpha.sqrt() * up + (1 - alpha).sqrt() * noise)


def test_the_noise_level_is_drawn_from_all_of_them(models: Path) -> None:
    level = backends.load(find(ModelSource(source=str(models / "cascade")))).level(Precision("fp32", CPU), False, SR)
    guide = level.guide(torch.zeros(1, 3, 32, 32), 4000, torch.Generator().manual_seed(0))
    assert guide is not None
    assert (int(guide.noise_level.min()), int(guide.noise_level.max())) == (0, 999)
    assert abs(guide.noise_level.double().mean() - 499.5) < 15
    # Of a grey picture nothing is left but its noise.
    spread = (1 - cosine_alphas()[guide.noise_level]).sqrt()
    torch.testing.assert_close(guide.picture.std((1, 2, 3)).double(), spread, rtol=0.1, atol=1e-3)


def test_the_text_embeddings_are_the_pipelines(photo: Path, models: Path) -> None:
    found = optimized(photo, models)
    base = IFPipeline.from_pretrained(models / "cascade/base")
    last = StableDiffusionUpscalePipeline.from_pretrained(models / "cascade/upscaler")
    with torch.no_grad():
        tokens, null = base.encode_prompt(TEXT)
        upscaler, upscaler_null = last.encode_prompt(TEXT, "cpu", 1, True)
    torch.testing.assert_close(found.target.tokens, tokens)
    torch.testing.assert_close(found.null.tokens, null)
    torch.testing.assert_close(found.target.upscaler, upscaler)
    torch.testing.assert_close(found.null.upscaler, upscaler_null)
    # Neither is optimised.
    assert found.optimized.upscaler is None


def test_the_photograph_is_reduced_as_pillow_does(photo: Path) -> None:
    with Image.open(photo) as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), dtype=float)
        found = ((reduced(to_tensor(image), 3)[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1
