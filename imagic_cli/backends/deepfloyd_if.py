"""DeepFloyd IF: one T5 encoder, a pixel base, super-resolution above it, and a latent upscaler at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
from diffusers.pipelines.deepfloyd_if.safety_checker import IFSafetyChecker
from diffusers.pipelines.deepfloyd_if.watermark import IFWatermarker
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, T5EncoderModel, T5Tokenizer

from imagic_cli.backends.base import Blank, Codec, Draw, Encoded, Level, Pass
from imagic_cli.backends.components import assemble, cut, load, load_encoder, loading, tokenizer
from imagic_cli.backends.pixels import LowResolution, PixelCodec, pixel_level
from imagic_cli.backends.schedulers import check_steps, pixel_sampler, schedule
from imagic_cli.backends.screening import Screen, Watermark
from imagic_cli.backends.source import Model
from imagic_cli.backends.upscaler import USUAL as USUAL_UPSCALER
from imagic_cli.backends.upscaler import Upscaler
from imagic_cli.config import EnlargeSettings, SamplingSettings
from imagic_cli.embedding import Embedding
from imagic_cli.errors import ModelError
from imagic_cli.memory import release
from imagic_cli.names import BASE
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision, placed

# T5 could take more: IF was trained with this many, and its pipeline takes no other.
WINDOW = 77
# The super-resolution pipeline's own numbers.
_USUAL = EnlargeSettings(steps=50, guidance=4.0, noise_level=250)


class _SafetyChecker(IFSafetyChecker):
    """diffusers 0.42's, with the call that ends a model's construction in transformers 5, or it cannot be loaded."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        self.post_init()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Stage:
    """A pixel denoiser: its level's name, where it lies, the side of its pictures and of those it is given."""

    name: str
    model: Model
    size: int
    multiple: int
    below: int | None


class DeepFloydIF:
    """A cascade: the base and what the model names above it. The photograph is taken at the largest tuned level's size.

    Args:
        model: the base, with its further parts in `above`.

    Raises:
        ModelError: the parts do not follow on each other.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.stages: dict[str, _Stage] = {}
        self.upscaler: Upscaler | None = None
        self._add(model)
        for part in model.above:
            if part.family == "StableDiffusionUpscalePipeline" and self.upscaler is None:
                self.upscaler = Upscaler(part)
            elif part.family == "IFSuperResolutionPipeline" and self.upscaler is None:
                self._add(part)
            else:
                raise ModelError(f"{part.name} is a {part.family}", "nothing that goes on a cascade of IF there")
        largest = list(self.stages.values())[-1].size
        self.size, self.levels = largest, tuple(self.stages)
        self.sizes = tuple(each.size for each in self.stages.values())
        self.multiple = math.lcm(*(largest // each.size * each.multiple for each in self.stages.values()))
        if self.upscaler is not None:
            self.sizes += (largest * self.upscaler.factor,)
            self.multiple = math.lcm(self.multiple, self.upscaler.multiple)
        self._screen = Screen(self._holder("safety_checker"), _SafetyChecker)
        self._mark = Watermark(self._holder("watermarker"), IFWatermarker)

    def encode(self, texts: Sequence[str | None], device: torch.device) -> list[Encoded]:
        """Embed texts by T5 and by the upscaler's own encoder, one loaded after the other; see `Backend`."""
        parts = {
            "tokenizer": tokenizer(self.model, "tokenizer", "text_encoder", T5Tokenizer),
            "text_encoder": load_encoder(self.model, T5EncoderModel, "text_encoder", device),
        }
        pipeline = assemble(IFPipeline, parts, requires_safety_checker=False)
        found = []
        with torch.no_grad():
            for text in texts:
                tokens, _negative = pipeline.encode_prompt(text or "", do_classifier_free_guidance=False, device=device)
                # The pipeline takes texts in small letters.
                lost = cut(pipeline.tokenizer, (text or "").lower().strip(), WINDOW)
                found.append(Encoded(Embedding(tokens.to("cpu", torch.float32)), lost))
        del pipeline, parts
        release(device)
        if self.upscaler is None:
            return found
        others = self.upscaler.encode(texts, device)
        return [
            replace(each, embedding=replace(each.embedding, upscaler=other))
            for each, other in zip(found, others, strict=True)
        ]

    def codec(self, device: torch.device, name: str = BASE) -> Codec:
        """The picture itself, or the upscaler's VAE; see `Backend`."""
        if self.upscaler is not None and name == self.upscaler.name:
            return self.upscaler.codec(device)
        return PixelCodec(self.size // self.stages[name].size, device)

    def level(self, precision: Precision, trainable: bool, name: str = BASE) -> Level:
        """Load one UNet; see `Backend`."""
        dtype = torch.float32 if trainable else precision.dtype
        unet = load(self.stages[name].model, UNet2DConditionModel, "unet", dtype)
        # Evaluation mode even to train: dropout would make the loss depend on state that no step seeds.
        return self._around(name, placed(unet.eval().requires_grad_(trainable), precision.device))

    def blank(self, width: int, height: int, name: str = BASE) -> Blank:
        """Shapes for estimates; see `Backend`."""
        with torch.device("meta"):
            tokens = torch.empty(1, WINDOW, self.model.config("text_encoder")["d_model"])
            text = Embedding(tokens, upscaler=self.upscaler.blank_text() if self.upscaler else None)
            if self.upscaler is not None and name == self.upscaler.name:
                return self.upscaler.blank(width, height, text)
            level = self._around(name, UNet2DConditionModel.from_config(self.stages[name].model.config("unet")))
            factor = self.size // self.stages[name].size
            return Blank(level, torch.empty(1, 3, height // factor, width // factor), text)

    def passes(self, sampling: SamplingSettings) -> tuple[Pass, ...]:
        """The base, and what enlarges its picture up to the size asked for; see `Backend`."""
        pixel_sampler(sampling.scheduler, self.model.config("scheduler"))
        above = sampling.super_resolution or _USUAL
        found = [Pass(BASE, sampling.steps, sampling.guidance)]
        found += [Pass(name, min(above.steps, sampling.steps), above.guidance) for name in self.levels[1:]]
        if self.upscaler is not None:
            last = sampling.upscaler or USUAL_UPSCALER
            found.append(Pass(self.upscaler.name, min(last.steps, sampling.steps), last.guidance))
        check_steps(sampling.steps, int(self.model.config("scheduler")["num_train_timesteps"]))
        return tuple(found if sampling.size is None else found[: self.sizes.index(sampling.size) + 1])

    def render(
        self,
        levels: Mapping[str, Level],
        draws: Sequence[Draw],
        null: Embedding,
        sampling: SamplingSettings,
        size: tuple[int, int],
        precision: Precision,
        on_step: Callable[[], None],
    ) -> Tensor:
        """One pipeline after the other: the base at e_bar, what is above it at e_tgt; see `Backend`."""
        dtype, device = precision.dtype, precision.device
        e_bar = Embedding.stack([draw.embedding for draw in draws]).to(device, dtype)
        target = Embedding.stack([draw.target for draw in draws]).to(device, dtype)
        nulls = null.to(device, dtype).expand(len(draws))
        base, *above = self.passes(sampling)
        made = self._run(base, levels[BASE], sampling, e_bar, nulls, size, draws, on_step)
        for each in above:
            if each.name in self.stages:
                given = {"image": made, "noise_level": (sampling.super_resolution or _USUAL).noise_level}
                made = self._run(each, levels[each.name], sampling, target, nulls, size, draws, on_step, **given)
            else:
                assert self.upscaler is not None
                settings = (sampling.upscaler or USUAL_UPSCALER).model_copy(update={"steps": each.steps})
                noise = _generators(draws, each.name)
                made = self.upscaler.render(made, target, nulls, settings, precision, noise, on_step)
        return made.float().cpu()

    def screen(self, images: Sequence[Image.Image], device: torch.device) -> list[Image.Image | None]:
        """Run IF's safety checker, and paste its watermark, where the model comes with them; see `Backend`."""
        return self._mark(self._screen(images, device))

    def _run(
        self,
        each: Pass,
        level: Level,
        sampling: SamplingSettings,
        text: Embedding,
        nulls: Embedding,
        size: tuple[int, int],
        draws: Sequence[Draw],
        on_step: Callable[[], None],
        **given: Any,
    ) -> Tensor:
        stage = self.stages[each.name]
        factor = self.size // stage.size
        parts = {"unet": level.module, "scheduler": pixel_sampler(sampling.scheduler, stage.model.config("scheduler"))}
        if stage.below is not None:
            parts["image_noising_scheduler"] = _noising(stage.model)
        kind = IFPipeline if stage.below is None else IFSuperResolutionPipeline
        pipeline = assemble(kind, parts, requires_safety_checker=False)
        with torch.no_grad():
            made: Tensor = pipeline(
                prompt_embeds=text.tokens,
                negative_prompt_embeds=nulls.tokens,
                num_inference_steps=each.steps,
                guidance_scale=each.guidance,
                width=size[0] // factor,
                height=size[1] // factor,
                generator=_generators(draws, each.name),
                output_type="pt",
                callback=lambda *_: on_step(),
                **given,
            ).images
        return made

    def _around(self, name: str, unet: Any) -> Level:
        stage = self.stages[name]
        own = schedule(stage.model.name, stage.model.config("scheduler"))
        if stage.below is None:
            return pixel_level(name, unet, own, None)
        noising = _noising(stage.model)
        low = LowResolution(noising, noising.config.num_train_timesteps, stage.size // stage.below)
        return pixel_level(name, unet, own, low)

    def _add(self, model: Model) -> None:
        with loading(model, "config"):
            unet = model.config("unet")
            size, multiple = int(unet["sample_size"]), 2 ** (len(unet["block_out_channels"]) - 1)
        below = list(self.stages.values())[-1].size if self.stages else None
        if below is not None and (size <= below or size % below):
            raise ModelError(f"{model.name} makes pictures of {size} pixels, no whole multiple of the {below} below it")
        # Read by later stages: what is missing is told before the first.
        for component in ("scheduler",) if below is None else ("scheduler", "image_noising_scheduler"):
            model.config(component)
        name = BASE if below is None else f"sr{below}-{size}"
        self.stages[name] = _Stage(name, model, size, multiple, below)

    def _holder(self, component: str) -> Model:
        # Every part is published with them; a folder may hold them once.
        return next((each for each in (self.model, *self.model.above) if each.has(component)), self.model)


def _noising(model: Model) -> Any:
    return DDPMScheduler.from_config(model.config("image_noising_scheduler"))


def _generators(draws: Sequence[Draw], name: str) -> list[torch.Generator]:
    # IF's pipelines draw the first noise and each step's from one generator.
    return [Stream(draw.seed, "sample", level=name).at(0) for draw in draws]
