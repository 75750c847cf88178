"""run.json: what a run was told, resolved, and how it was computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from imagic_cli import files
from imagic_cli.config import (
    AboveSettings,
    Condition,
    FinetuneSettings,
    ModelSource,
    OptimizeSettings,
    PhotoSettings,
    SamplingSettings,
    Settings,
)
from imagic_cli.errors import ArtifactError
from imagic_cli.names import BASE, part
from imagic_cli.stamps import SCHEMA, Stamp, canonical


class ImageRecord(Settings):
    """The photograph as stage A took it: its file's name, and size and digest of the prepared pixels."""

    name: str
    width: int
    height: int
    pixels: str


class StageRecord(Settings):
    """How a stage was computed; its bits depend on this, its key does not."""

    environment: dict[str, str]
    seconds: float
    finished: str


class Record(Settings):
    """The content of `run.json`: the resolved settings, written before work starts.

    Attributes:
        finetune: stage B's recipe for the base.
        above: stage B's recipes for the levels above the base, by name, in their order; none but in a cascade.
        sizes: where sampling can stop; empty where it always ends at the same denoiser.
    """

    version: int = SCHEMA
    text: str
    image: ImageRecord
    preset: str
    model: ModelSource
    family: str
    identity: str
    photo: PhotoSettings
    optimize: OptimizeSettings
    finetune: FinetuneSettings
    generate: SamplingSettings
    above: dict[str, AboveSettings] = {}
    sizes: tuple[int, ...] = ()
    history: dict[str, StageRecord] = {}

    @property
    def model_name(self) -> str:
        """What to call the model where the picture goes: no path of this machine."""
        return Path(self.model.source).name if Path(self.model.source).is_absolute() else self.model.source

    def optimize_stamp(self) -> Stamp:
        """What stage A makes with these settings."""
        inputs = {"image": self.image.pixels, "model": self.identity}
        return Stamp("embeddings", "optimize", self.optimize.model_dump() | {"text": self.text}, inputs)

    def levels(self, size: int | None = None) -> tuple[str, ...]:
        """What stage B trains, the base first; with `size`, only what sampling to that size runs through."""
        names = (BASE, *self.above)
        return names if size is None else names[: self.sizes.index(size) + 1]

    def recipe(self, level: str) -> FinetuneSettings:
        """Stage B's settings for one level."""
        return self.finetune if level == BASE else self.above[level]

    def with_recipes(self, recipes: Mapping[str, FinetuneSettings]) -> Record:
        """This with other settings of stage B for some levels."""
        above = {level: recipe for level, recipe in recipes.items() if level != BASE}
        return self.model_copy(update={"finetune": recipes.get(BASE, self.finetune), "above": self.above | above})

    def condition(self, level: str) -> Condition:
        """At which embedding stage B tunes one level."""
        return "optimized" if level == BASE else self.above[level].condition

    def finetune_stamp(self, embeddings: str, level: str = BASE) -> Stamp:
        """What stage B makes of one level with the embeddings with this digest."""
        inputs = {"image": self.image.pixels, "model": self.identity}
        settings = self.recipe(level).work()
        if self.condition(level) == "optimized":
            inputs |= {"embeddings": embeddings}
        # e_tgt is made of the text and the model alone: what is tuned at it is the same after another stage A.
        told = {} if level == BASE else {"level": level, "text": self.text}
        return Stamp("weights", "finetune", settings | told, inputs)

    def generate_stamp(self, sampling: SamplingSettings, embeddings: str, weights: Mapping[str, str]) -> Stamp:
        """What stage C makes of the embeddings with this digest and the weights with these, by level.

        A level without weights, or with 'none', is the pretrained one.
        """
        inputs = {"model": self.identity, "embeddings": embeddings}
        inputs |= {part("weights", level): weights.get(level, "none") for level in self.levels(sampling.size)}
        size = {"width": self.image.width, "height": self.image.height}
        return Stamp("samples", "generate", sampling.work() | size, inputs)


def read_record(path: Path) -> Record:
    """What the run whose run.json this is recorded.

    Raises:
        ArtifactError: there is none, or it is not as it was written.
        DiskError: it may not be read.
    """
    if not path.is_file():
        raise ArtifactError(f"no run in {path.parent}", "start one with: imagic optimize IMAGE TEXT")
    try:
        written = path.read_bytes()
        content = json.loads(written)
        del content["digest"]
        # To the byte: another spelling of the same values was not written by us.
        if written != signed(content):
            raise ValueError("digest")
        if content["version"] != SCHEMA:
            raise ArtifactError(f"{path} has layout version {content['version']}, not {SCHEMA}")
        return Record.model_validate(content)
    except PermissionError as error:
        raise files.unreadable(path) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, ValidationError) as error:
        raise ArtifactError(f"{path} is corrupt", "restore it, or begin anew in another --run") from error


def write_record(path: Path, record: Record) -> None:
    """Replace run.json.

    Raises:
        DiskError: the disk refused.
    """
    files.commit_bytes(path, signed(record.model_dump(mode="json")))


def signed(content: dict[str, object]) -> bytes:
    """The bytes of run.json: readable JSON, with a digest of itself."""
    digest = hashlib.sha256(canonical(content).encode()).hexdigest()
    return (json.dumps(content | {"digest": digest}, indent=2) + "\n").encode()
