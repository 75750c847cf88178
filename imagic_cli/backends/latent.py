"""What the Stable Diffusion families share: a VAE, one UNet, and diffusers' own pipeline around them."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch import Tensor, nn

from imagic_cli.backends.base import Blank, Draw, Encoded, Level
from imagic_cli.backends.components import load, loading
from imagic_cli.backends.schedulers import sampler
from imagic_cli.backends.source import Model
from imagic_cli.config import SamplingSettings
from imagic_cli.embedding import Embedding
from imagic_cli.errors import ModelError
from imagic_cli.noise import Schedule
from imagic_cli.precision import Precision, release

_PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class LatentCodec:
    """A VAE with its own scale and shift, always in fp32: half precision overflows in some of them."""

    vae: Any
    factor: int

    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior's mean (the paper leaves mean or sample open): (B, 3, H, W) -> (B, C, H/f, W/f)."""
        with torch.no_grad():
            mean = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mean
        clean: Tensor = (mean - self._shift) * self.vae.config.scaling_factor
        return clean

    def decode(self, clean: Tensor) -> Tensor:
        """The inverse, one sample at a time: the memory of one, and the same bits alone as in a batch."""
        with torch.no_grad():
            latents = clean.to(self.vae.device, self.vae.dtype) / self.vae.config.scaling_factor + self._shift
            return torch.cat([self.vae.decode(each[None]).sample for each in latents])

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, H/f, W/f)."""
        return self.vae.config.latent_channels, height // self.factor, width // self.factor

    @property
    def _shift(self) -> float:
        return self.vae.config.shift_factor or 0.0


class LatentBackend(ABC):
    """A family whose model folder holds `vae`, `unet`, `scheduler` and text encoders.

    Args:
        model: where it lies.
    """

    pipeline_class: Any
    image_pipeline_class: Any
    """The family's image-to-image pipeline."""

    def __init__(self, model: Model) -> None:
        self.model = model
        vae, unet = model.config("vae"), model.config("unet")
        with loading(model, "config"):
            self.factor = 2 ** (len(vae["block_out_channels"]) - 1)
            self.multiple = self.factor * 2 ** (len(unet["block_out_channels"]) - 1)
            self.size = int(unet["sample_size"]) * self.factor
            self.timesteps = int(model.config("scheduler")["num_train_timesteps"])

    @abstractmethod
    def text_components(self) -> dict[str, Any]:
        """Load tokenizers and text encoders, by the pipeline's names for them."""

    @abstractmethod
    def embed(self, pipeline: Any, text: str | None, device: torch.device) -> Embedding:
        """One text through the pipeline's own `encode_prompt`; None is the unconditional embedding."""

    @abstractmethod
    def conditions(self, x_t: Tensor, embedding: Embedding) -> dict[str, Tensor] | None:
        """`added_cond_kwargs` of the UNet."""

    @abstractmethod
    def arguments(self, embedding: Embedding, null: Embedding) -> dict[str, Tensor | None]:
        """The pipeline call's arguments for a batch of embeddings."""

    def encode(self, texts: Sequence[str | None], device: torch.device) -> list[Encoded]:
        """Embed texts; see `Backend`."""
        parts = self.text_components()
        for part in parts.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False).to(device)
        pipeline = self.pipeline(self.pipeline_class, **parts)
        with torch.no_grad():
            found = [
                Encoded(
                    self.embed(pipeline, text, device).to("cpu", torch.float32), cut(pipeline.tokenizer, text or "")
                )
                for text in texts
            ]
        del pipeline, parts, part
        release(device)
        return found

    def codec(self, device: torch.device) -> LatentCodec:
        """Load the VAE."""
        vae = load(self.model, AutoencoderKL, "vae", torch.float32)
        return LatentCodec(vae.eval().requires_grad_(False).to(device), self.factor)

    def level(self, precision: Precision, trainable: bool) -> Level:
        """Load the UNet; see `Backend`."""
        dtype = torch.float32 if trainable else precision.dtype
        # Evaluation mode even to train: dropout would make the loss depend on state that no step seeds.
        unet = (
            load(self.model, UNet2DConditionModel, "unet", dtype).eval().requires_grad_(trainable).to(precision.device)
        )
        return self.around(unet)

    def blank(self, width: int, height: int) -> Blank:
        """Shapes for estimates; see `Backend`."""
        config = self.model.config("unet")
        with torch.device("meta"):
            level = self.around(UNet2DConditionModel.from_config(config))
            channels, window = level.module.config.in_channels, self.model.config("tokenizer")["model_max_length"]
            clean = torch.empty(1, channels, height // self.factor, width // self.factor)
            tokens = torch.empty(1, window, level.module.config.cross_attention_dim)
            return Blank(level, clean, Embedding(tokens, self.blank_pooled()))

    def blank_pooled(self) -> Tensor | None:
        """A pooled embedding's shape, where the family has one."""
        return None

    def around(self, unet: Any) -> Level:
        """The level that a UNet is."""
        config = self.model.config("scheduler")
        prediction = config.get("prediction_type", "epsilon")
        other = str(config.get("_class_name", ""))
        if prediction not in _PREDICTIONS or any(part in other for part in ("EDM", "Flow")):
            known = ", ".join(_PREDICTIONS)
            raise ModelError(f"{self.model.name} predicts {prediction} with {other}", f"supported: {known}")
        scheduler = DDPMScheduler.from_config(config)
        schedule = Schedule(scheduler, scheduler.config.num_train_timesteps, scheduler.config.prediction_type)

        def predict(x_t: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
            added = self.conditions(x_t, embedding)
            output: Tensor = unet(x_t, timestep, embedding.tokens, added_cond_kwargs=added).sample
            return output

        return Level("base", unet, schedule, predict)

    def render(
        self,
        level: Level,
        draws: Sequence[Draw],
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
        on_step: Callable[[], None],
    ) -> Tensor:
        """Sample with the family's pipeline; see `Backend`."""

        def advance(_pipeline: Any, _step: int, _timestep: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
            on_step()
            return values

        _channels, height, width = draws[0].noise.shape
        return self._sampled(
            self.pipeline_class,
            level,
            draws,
            null,
            sampling,
            precision,
            latents=torch.stack([draw.noise for draw in draws]).to(precision.device, precision.dtype),
            height=height * self.factor,
            width=width * self.factor,
            callback_on_step_end=advance,
        )

    def rework(
        self,
        level: Level,
        draws: Sequence[Draw],
        clean: Tensor,
        strength: float,
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
    ) -> Tensor:
        """Sample with the family's image-to-image pipeline from a noised `clean`; see `evaluation.baselines`."""
        image = clean.expand(len(draws), -1, -1, -1).to(precision.device, precision.dtype)
        # SDXL's looks into its VAE's config, although latents are what it is given.
        vae = self.codec(precision.device).vae
        return self._sampled(
            self.image_pipeline_class, level, draws, null, sampling, precision, vae, image=image, strength=strength
        )

    def scheduler_config(self) -> dict[str, Any]:
        """The model's own noise schedule."""
        return self.model.config("scheduler")

    def _sampled(
        self,
        kind: Any,
        level: Level,
        draws: Sequence[Draw],
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
        vae: Any = None,
        **special: Any,
    ) -> Tensor:
        pipeline = self.pipeline(
            kind, vae=vae, unet=level.module, scheduler=sampler(sampling.scheduler, self.model.config("scheduler"))
        )
        pipeline.set_progress_bar_config(disable=True)
        # Without a VAE the pipeline assumes a factor of 8.
        pipeline.vae_scale_factor = self.factor
        dtype, device = precision.dtype, precision.device
        batch = Embedding.stack([draw.embedding for draw in draws]).to(device, dtype)
        with torch.no_grad():
            output = pipeline(
                **self.arguments(batch, null.to(device, dtype).expand(len(draws))),
                generator=[draw.generator for draw in draws],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                output_type="latent",
                **special,
            )
        clean: Tensor = output.images
        return clean.float().cpu()

    def screen(self, images: Sequence[Image.Image], device: torch.device) -> list[Image.Image | None]:
        """Run the model's safety checker; see `Backend`."""
        if not self.model.has("safety_checker"):
            return list(images)
        checker, features = self._checker
        seen = features(list(images), return_tensors="pt").pixel_values.to(device)
        # It blackens what it flags in the arrays that it is given; only its verdict is used.
        arrays = [np.asarray(image, dtype=np.float32) / 255 for image in images]
        with torch.no_grad():
            _blackened, flags = checker.to(device)(images=arrays, clip_input=seen)
        # Its memory on the device belongs to the next batch.
        checker.to("cpu")
        return [None if flag else image for image, flag in zip(images, flags, strict=True)]

    @cached_property
    def _checker(self) -> tuple[Any, Any]:
        # Read once for all the images of a call: it is larger than the VAE.
        from transformers import CLIPImageProcessor

        checker = load(self.model, StableDiffusionSafetyChecker, "safety_checker", torch.float32).eval()
        with loading(self.model, "feature_extractor"):
            return checker, CLIPImageProcessor.from_pretrained(self.model.folder / "feature_extractor")

    def pipeline(self, kind: Any, **components: Any) -> Any:
        """One of the family's diffusers pipelines around some of its components."""
        parameters = inspect.signature(kind.__init__).parameters.values()
        absent = dict.fromkeys(each.name for each in parameters if each.name != "self" and each.default is each.empty)
        options: dict[str, Any] = absent | components
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(**options, **self.pipeline_options())

    def pipeline_options(self) -> dict[str, Any]:
        """The pipeline's own settings, from the model's index."""
        return {"requires_safety_checker": False}


def cut(tokenizer: Any, text: str) -> str:
    """The part of a text that falls out of the tokenizer's window."""
    whole = tokenizer(text, truncation=False, verbose=False).input_ids
    kept = tokenizer.model_max_length
    return str(tokenizer.decode(whole[kept - 1 : -1])).strip() if len(whole) > kept else ""
