"""What the Stable Diffusion families share: a VAE, one UNet, and diffusers' own pipeline around them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch import Tensor

from imagic_cli.backends.base import Blank, Draw, Encoded, Guide, Level, Pass
from imagic_cli.backends.components import assemble, cut, load, loading
from imagic_cli.backends.schedulers import check_steps, sampler, schedule
from imagic_cli.backends.screening import Screen
from imagic_cli.backends.source import Model
from imagic_cli.config import SamplingSettings
from imagic_cli.embedding import Embedding
from imagic_cli.memory import release
from imagic_cli.names import BASE
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision, placed


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
        self.levels: tuple[str, ...] = (BASE,)
        self.sizes: tuple[int, ...] = ()

    @abstractmethod
    def text_components(self, device: torch.device) -> dict[str, Any]:
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
        pipeline = self.pipeline(self.pipeline_class, **self.text_components(device))
        with torch.no_grad():
            found = [
                Encoded(self.embed(pipeline, text, device).to("cpu", torch.float32), self._cut(pipeline, text))
                for text in texts
            ]
        del pipeline
        release(device)
        return found

    def codec(self, device: torch.device, name: str = BASE) -> LatentCodec:
        """Load the VAE."""
        vae = load(self.model, AutoencoderKL, "vae", torch.float32)
        return LatentCodec(vae.eval().requires_grad_(False).to(device), self.factor)

    def level(self, precision: Precision, trainable: bool, name: str = BASE) -> Level:
        """Load the UNet; see `Backend`."""
        dtype = torch.float32 if trainable else precision.dtype
        # Evaluation mode even to train: dropout would make the loss depend on state that no step seeds.
        unet = load(self.model, UNet2DConditionModel, "unet", dtype).eval().requires_grad_(trainable)
        return self.around(placed(unet, precision.device))

    def blank(self, width: int, height: int, name: str = BASE) -> Blank:
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

        def predict(x_t: Tensor, timestep: Tensor, embedding: Embedding, guide: Guide | None = None) -> Tensor:
            added = self.conditions(x_t, embedding)
            output: Tensor = unet(x_t, timestep, embedding.tokens, added_cond_kwargs=added).sample
            return output

        return Level(BASE, unet, schedule(self.model.name, self.model.config("scheduler")), predict)

    def passes(self, sampling: SamplingSettings) -> tuple[Pass, ...]:
        """The one denoiser; see `Backend`."""
        check_steps(sampling.steps, self.timesteps)
        return (Pass(BASE, sampling.steps, sampling.guidance),)

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
        """Sample with the family's pipeline; see `Backend`."""
        width, height = size
        shape = levels[BASE].module.config.in_channels, height // self.factor, width // self.factor
        noise = torch.stack([torch.randn(shape, generator=Stream(draw.seed, "sample").at(0)) for draw in draws])
        generators = [Stream(draw.seed, "sampler").at(0) for draw in draws]
        texts = [draw.embedding for draw in draws]
        return self.from_noise(levels[BASE], texts, noise, generators, null, sampling, precision, on_step)

    def from_noise(
        self,
        level: Level,
        texts: Sequence[Embedding],
        noise: Tensor,
        generators: Sequence[torch.Generator],
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
        on_step: Callable[[], None],
    ) -> Tensor:
        """Text-to-image sampling from given noise (B, C, h, w); see `evaluation.baselines`."""

        def advance(_pipeline: Any, _step: int, _timestep: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
            on_step()
            return values

        _count, _channels, height, width = noise.shape
        return self._sampled(
            self.pipeline(self.pipeline_class, unet=level.module, scheduler=self._sampler(sampling)),
            texts,
            generators,
            null,
            sampling,
            precision,
            latents=noise.to(precision.device, precision.dtype),
            height=height * self.factor,
            width=width * self.factor,
            callback_on_step_end=advance,
        )

    def rework(
        self,
        level: Level,
        texts: Sequence[Embedding],
        clean: Tensor,
        strength: float,
        generators: Sequence[torch.Generator],
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
    ) -> Tensor:
        """Image-to-image sampling from a noised `clean` (1, C, h, w); see `evaluation.baselines`."""
        image = clean.expand(len(texts), -1, -1, -1).to(precision.device, precision.dtype)
        # SDXL's looks into its VAE's config, although latents are what it is given.
        vae = self.codec(precision.device).vae
        parts = {"vae": vae, "unet": level.module, "scheduler": self._sampler(sampling)}
        pipeline = self.pipeline(self.image_pipeline_class, **parts)
        return self._sampled(pipeline, texts, generators, null, sampling, precision, image=image, strength=strength)

    def scheduler_config(self) -> dict[str, Any]:
        """The model's own noise schedule."""
        return self.model.config("scheduler")

    def _sampler(self, sampling: SamplingSettings) -> Any:
        return sampler(sampling.scheduler, self.model.config("scheduler"))

    def _sampled(
        self,
        pipeline: Any,
        texts: Sequence[Embedding],
        generators: Sequence[torch.Generator],
        null: Embedding,
        sampling: SamplingSettings,
        precision: Precision,
        **special: Any,
    ) -> Tensor:
        # Without a VAE the pipeline assumes a factor of 8.
        pipeline.vae_scale_factor = self.factor
        dtype, device = precision.dtype, precision.device
        batch = Embedding.stack(list(texts)).to(device, dtype)
        with torch.no_grad():
            output = pipeline(
                **self.arguments(batch, null.to(device, dtype).expand(len(texts))),
                generator=list(generators),
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                output_type="latent",
                **special,
            )
        clean: Tensor = output.images
        return clean.float().cpu()

    def screen(self, images: Sequence[Image.Image], device: torch.device) -> list[Image.Image | None]:
        """Run the model's safety checker; see `Backend`."""
        return self._screen(images, device)

    @cached_property
    def _screen(self) -> Screen:
        # Read once for all the images of a call: it is larger than the VAE.
        return Screen(self.model, StableDiffusionSafetyChecker)

    def _cut(self, pipeline: Any, text: str | None) -> str:
        return cut(pipeline.tokenizer, text or "", pipeline.tokenizer.model_max_length)

    def pipeline(self, kind: Any, **components: Any) -> Any:
        """One of the family's diffusers pipelines around some of its components."""
        return assemble(kind, components, **self.pipeline_options())

    def pipeline_options(self) -> dict[str, Any]:
        """The pipeline's own settings, from the model's index."""
        return {"requires_safety_checker": False}
