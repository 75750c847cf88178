"""Fidelity, text alignment, intervals, and the other ways to edit."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
import transformers
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from imagic_cli import backends
from imagic_cli.backends.source import find
from imagic_cli.config import ModelSource, SamplingSettings
from imagic_cli.errors import ModelError
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.baselines import ddib, inverted, sdedit
from imagic_cli.evaluation.fidelity import psnr, ssim, unchanged
from imagic_cli.evaluation.intervals import bootstrap
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision

CPU = Precision("fp32", torch.device("cpu"))
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_psnr_is_the_formula() -> None:
    picture = Image.fromarray(NOISE)
    off = NOISE.astype(int)
    off[2, 3, 1] += 10 if off[2, 3, 1] < 128 else -10
    other = Image.fromarray(off.astype(np.uint8))
    assert psnr(picture, picture) == math.inf
    assert psnr(picture, other) == pytest.approx(20 * math.log10(255) - 10 * math.log10(100 / NOISE.size))
    assert psnr(Image.new("RGB", (3, 3)), Image.new("RGB", (3, 3), "white")) == 0
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(picture, Image.new("RGB", (3, 3)))


def test_psnr_counts_only_where_it_is_told() -> None:
    a, b = Image.new("RGB", (4, 2)), Image.new("RGB", (4, 2))
    b.putpixel((3, 0), (255, 255, 255))
    where = np.ones((2, 4), bool)
    assert psnr(a, b, where) == pytest.approx(10 * math.log10(8))
    where[0, 3] = False
    assert psnr(a, b, where) == math.inf
    with pytest.raises(ValueError, match="no pixel"):
        psnr(a, b, np.zeros((2, 4), bool))


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    picture = Image.fromarray(NOISE)
    assert ssim(picture, picture) == pytest.approx(1.0)
    softer = Image.blend(picture, Image.new("RGB", picture.size, "grey"), 0.5)
    assert ssim(picture, Image.new("RGB", picture.size, "grey")) < 0.1 < ssim(picture, softer) < 0.9
    with pytest.raises(ValueError, match="cannot be compared"):
        ssim(picture, Image.new("RGB", (3, 3)))


def test_the_unchanged_part_keeps_its_distance() -> None:
    before, after = Image.new("RGB", (20, 20)), Image.new("RGB", (20, 20))
    after.putpixel((10, 5), (1, 0, 0))
    same = unchanged(before, after, margin=2)
    assert same.sum() == 400 - 25
    assert not same[3:8, 8:13].any()


def test_an_interval_holds_its_mean_and_narrows_with_more_values() -> None:
    few, many = bootstrap([0.0, 1.0] * 5), bootstrap([0.0, 1.0] * 500)
    assert few.mean == many.mean == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    # The normal approximation of a mean of 1000 halves.
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(1000), rel=0.05)
    assert bootstrap([2.0]).low == bootstrap([2.0]).high == 2.0
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_clip_score_is_the_cosine(tmp_path: Path) -> None:
    toys.clip(tmp_path)
    words, model = CLIPTokenizer.from_pretrained(tmp_path), CLIPModel.from_pretrained(tmp_path).eval()
    pictures = [Image.fromarray(NOISE), Image.new("RGB", (40, 40), "red")]
    found = ClipScore(tmp_path)(pictures, "a bird")
    pixels = CLIPImageProcessorPil.from_pretrained(tmp_path)(images=pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels)
        said = model.get_text_features(**words(["a bird"], return_tensors="pt"))
    image, said = (each if isinstance(each, torch.Tensor) else each.pooler_output for each in (image, said))
    expected = 100 * torch.nn.functional.cosine_similarity(image, said).clamp(min=0)
    assert found == pytest.approx(expected.tolist(), abs=1e-3)
    assert found[0] != found[1]


def test_loading_clip_draws_no_bar_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    toys.clip(tmp_path)
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", True)
    CLIPModel.from_pretrained(tmp_path)
    assert "Loading weights" in capfd.readouterr().err
    ClipScore(tmp_path)
    assert capfd.readouterr().err == ""


def test_a_folder_without_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no CLIP model"):
        ClipScore(tmp_path)


def test_a_pickled_clip_is_refused(tmp_path: Path) -> None:
    weights = toys.clip(tmp_path) / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="no CLIP model"):
        ClipScore(tmp_path)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_sdedit_is_the_image_to_image_pipeline(models: Path, family: str) -> None:
    backend = backends.load(find(ModelSource(source=str(models / family))))
    level = backend.level(CPU, trainable=False)
    target, null = (each.embedding for each in backend.encode(["a bird", None], CPU.device))
    clean = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(5))
    sampling = SamplingSettings(steps=10, guidance=3.0, dtype="fp32")
    found = sdedit(backend, level, clean, target, null, 0.6, [1, 2], sampling, CPU)
    kind = StableDiffusionXLImg2ImgPipeline if family == "sdxl" else StableDiffusionImg2ImgPipeline
    pipeline = kind.from_pretrained(models / family)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    texts = {"prompt_embeds": target.tokens, "negative_prompt_embeds": null.tokens}
    if target.pooled is not None:
        texts |= {"pooled_prompt_embeds": target.pooled, "negative_pooled_prompt_embeds": null.pooled}
    for seed, made in zip((1, 2), found, strict=True):
        expected = pipeline(
            **texts,
            image=clean,
            strength=0.6,
            generator=Stream(seed, "sdedit").at(0),
            num_inference_steps=10,
            guidance_scale=3.0,
            output_type="latent",
        ).images
        torch.testing.assert_close(made[None], expected, rtol=1e-4, atol=1e-5)


def test_ddib_under_one_text_gives_the_input_back(models: Path) -> None:
    backend = backends.load(find(ModelSource(source=str(models / "sd"))))
    level = backend.level(CPU, trainable=False)
    source, target, null = (each.embedding for each in backend.encode(["a bird", "a dog", None], CPU.device))
    clean = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(5))
    sampling = SamplingSettings(steps=200, guidance=1.0, dtype="fp32")
    back = ddib(backend, level, clean, source, source, null, sampling, CPU)
    assert float((back - clean).norm() / clean.norm()) < 0.1
    noise = inverted(backend, level, clean, source, 200, CPU)
    assert float((noise - clean).norm() / clean.norm()) > 0.5
    strong = SamplingSettings(steps=200, guidance=8.0, dtype="fp32")
    assert not torch.allclose(ddib(backend, level, clean, source, target, null, strong, CPU), back, atol=1e-2)
