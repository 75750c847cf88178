"""Settings: what changes a result (hashed into artifact keys), and how it is computed (not hashed)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imagic_cli.errors import UsageError

# The paper trains every weight and publishes nothing for less: these are ours. Its rate is far too small where two thin
# matrices, one of them zero at first, or the text's projections alone must make the whole change.
LORA_RANK = 16
_OWN_RATES = {"lora": 1e-4, "kv": 1e-5}

Dtype = Literal["auto", "fp32", "bf16", "fp16"]
EncoderDtype = Literal["fp32", "bf16", "fp16", "8bit"]
Optimizer = Literal["adam", "adam8bit"]
Method = Literal["full", "lora", "kv"]
Condition = Literal["target", "optimized"]
Fit = Literal["keep", "crop", "pad"]
Scheduler = Literal["ddim", "ddpm", "euler", "euler-a", "dpm++", "heun", "pndm", "unipc"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# Years of work; and what is reckoned with them stays a number that a float can hold.
_MOST_STEPS = 10_000_000
Steps = Annotated[int, Field(ge=1, le=_MOST_STEPS)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Frozen and strict: an unknown name is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSource(Settings):
    """Where a model comes from.

    Attributes:
        above: of a cascade whose parts are models of their own: what enlarges the base's pictures, in order.
        encoder: the number format that its text encoders compute in; None is fp32.
        source: a hub id, a folder in diffusers layout, or one .safetensors checkpoint.
        revision: the hub's branch, tag or commit.
        variant: which weight files, such as fp16.
        config: for a checkpoint, a folder in diffusers layout with its configs and tokenizer.
    """

    source: str
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    encoder: EncoderDtype | None = None
    above: tuple[ModelSource, ...] = ()


@dataclass(frozen=True)
class ModelFlags:
    """What was typed about the model; None where nothing was."""

    model: str | None = None
    preset: str | None = None
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    encoder: str | None = None


class PhotoSettings(Settings):
    """How the photograph becomes `image.png`.

    Attributes:
        size: side of a square of the wanted area, pixels; None is the model's own.
        fit: keep the aspect ratio, crop to a square, or pad to one.
        center: what a crop is centred on, as fractions of width and height.
    """

    size: Annotated[int, Field(ge=8, le=8192)] | None = None
    fit: Fit = "keep"
    center: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = (0.5, 0.5)


class TrainSettings(Settings):
    """What stages A and B share.

    Attributes:
        steps: updates.
        learning_rate: Adam's.
        batch: draws of noise and timestep per update.
        seed: of noise and timesteps.
        optimizer: Adam, or Adam with 8-bit moments.
        dtype: the number format that the denoiser computes in; what is trained stays fp32.
    """

    steps: Steps
    learning_rate: Rate
    batch: Annotated[int, Field(ge=1, le=4096)] = 1
    seed: Seed = 0
    optimizer: Optimizer = "adam"
    dtype: Dtype = "auto"


class OptimizeSettings(TrainSettings):
    """Stage A; the defaults are the paper's for Stable Diffusion (section 4).

    No steps leave e_opt = e_tgt: the method without stage A.
    """

    steps: Annotated[int, Field(ge=0, le=_MOST_STEPS)] = 1000
    learning_rate: Rate = 2e-3


class FinetuneSettings(TrainSettings):
    """Stage B; the defaults are the paper's for Stable Diffusion (section 4), those of other methods are ours.

    Attributes:
        delta_dtype: the format in which the change of each weight, or LoRA's two factors of it, are stored.
        method: train every weight, as the paper does, a LoRA beside the attention's, or the text's keys and values.
        rank: of the LoRA; None where there is none.
    """

    steps: Steps = 1500
    learning_rate: Rate = 5e-7
    delta_dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    method: Method = "full"
    rank: Annotated[int, Field(ge=1, le=1024)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_numbers(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        method = given.get("method", "full")
        rate = {"learning_rate": _OWN_RATES[method]} if method in _OWN_RATES else {}
        rank = LORA_RANK if given.get("rank") is None else given["rank"]
        return rate | given | {"rank": rank if method == "lora" else None}

    def work(self) -> dict[str, Any]:
        """What a key holds; that of `full` is as it was before there was another method."""
        return self.model_dump(exclude={"method", "rank"} if self.method == "full" else None)


class AboveSettings(FinetuneSettings):
    """Stage B on a level above the base.

    Attributes:
        condition: at which embedding it is tuned; the paper's is the target's. It is sampled at the target's always.
    """

    condition: Condition = "target"

    def work(self) -> dict[str, Any]:
        """What a key holds; that of the paper's way is as it was before there was another."""
        found = super().work()
        if self.condition == "target":
            del found["condition"]
        return found


class EnlargeSettings(Settings):
    """How a denoiser that enlarges a picture is sampled.

    Attributes:
        steps: denoising steps, or as many as the base takes where those are fewer.
        guidance: classifier-free guidance scale; 1 or less is off.
        noise_level: the timestep to which the enlarged picture is noised before it guides.
    """

    steps: Annotated[int, Field(ge=1, le=10000)]
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    noise_level: Annotated[int, Field(ge=0, lt=10000)]


class SamplingSettings(Settings):
    """Stage C, but for eta and seed. The paper publishes none of these: the defaults are ours.

    Attributes:
        scheduler: the sampler.
        steps: its denoising steps.
        guidance: classifier-free guidance scale; 1 or less is off.
        negative: what guidance leads away from; empty is the model's unconditional embedding.
        prompt: another target text; None is the run's own.
        pretrained: ignore what stage B trained.
        dtype: the number format of the denoiser.
        size: side of the pictures at whose level a cascade stops; None is its last.
        super_resolution: the levels of a cascade that enlarge the base's picture; None is their pipeline's own numbers.
        upscaler: what ends a cascade; None is its pipeline's own numbers.
    """

    scheduler: Scheduler = "ddim"
    steps: Annotated[int, Field(ge=1, le=10000)] = 50
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 7.5
    negative: str = ""
    prompt: str | None = None
    pretrained: bool = False
    dtype: Dtype = "auto"
    size: Annotated[int, Field(ge=1)] | None = None
    super_resolution: EnlargeSettings | None = None
    upscaler: EnlargeSettings | None = None

    def work(self) -> dict[str, Any]:
        """What a key holds: what only a cascade has is there only where it is said."""
        absent = {name for name in ("size", "super_resolution", "upscaler") if getattr(self, name) is None}
        return self.model_dump(exclude=absent)


class How(Settings):
    """What does not change a result but for its last bits, and is not hashed.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        checkpoint_every: steps between checkpoints; 0 never, None by time.
        probe_every: steps between probes of the fixed-noise loss; 0 never.
        gradient_checkpointing: recompute activations instead of keeping them.
        batch_size: images denoised together in stage C; None is 4 on CUDA and 1 elsewhere.
        strict: refuse where a result could differ in bits, instead of warning.
    """

    device: str = "auto"
    checkpoint_every: Annotated[int, Field(ge=0)] | None = None
    probe_every: Annotated[int, Field(ge=0)] = 100
    gradient_checkpointing: bool = False
    batch_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    strict: bool = False


S = TypeVar("S", bound=Settings)
_FLAGS = {"learning_rate": "lr", "condition": "sr-condition"}
_OF_ONE_STAGE = {"steps", "lr"}


def override(settings: S, flags: Mapping[str, Any], stage: str = "") -> S:
    """`settings` with the flags that were given; None is a flag that was not.

    Args:
        settings: what holds where nothing is given.
        flags: by the name of the setting.
        stage: the one that `--steps` and `--lr` are typed with where a command has those of several.

    Raises:
        UsageError: a value is out of range.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return type(settings).model_validate(settings.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        name = _FLAGS.get(str(first["loc"][0]), str(first["loc"][0]).replace("_", "-"))
        name = f"{stage}-{name}" if stage and name in _OF_ONE_STAGE else name
        raise UsageError(f"--{name} {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}") from error
