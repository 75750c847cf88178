"""`imagic baseline`: SDEdit and DDIB on a run's own photograph, text and pretrained model, into the run directory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from imagic_cli import backends, files, png
from imagic_cli.backends.source import Model
from imagic_cli.config import How, SamplingSettings
from imagic_cli.embedding import Embedding
from imagic_cli.errors import ArtifactError, UsageError
from imagic_cli.evaluation.baselines import Reworks, ddib, sdedit
from imagic_cli.events import Listener, Sampled, Started
from imagic_cli.image import to_images
from imagic_cli.names import BASE
from imagic_cli.precision import Precision, pick_device
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.stages.objective import encode_image
from imagic_cli.stamps import Stamp
from imagic_cli.sweep import Item

Method = Literal["sdedit", "ddib"]
# What differs between the tries of a method.
SETTING: dict[Method, str] = {"sdedit": "strength", "ddib": "guidance"}


@dataclass(frozen=True)
class Rival:
    """One method on one run.

    Attributes:
        run: with the result of stage A, of which only the target's and the null embedding are used.
        record: its settings.
        model: the pretrained model.
        method: which.
        source: for DDIB, the text that describes the photograph.
        sampling: as for `imagic generate`.
        how: device and the like.
        tell: who listens.
    """

    run: Run
    record: Record
    model: Model
    method: Method
    source: str
    sampling: SamplingSettings
    how: How
    tell: Listener

    def path(self, item: Item) -> Path:
        """Where the picture of one setting and seed lies."""
        setting, seed = item
        name = f"{SETTING[self.method]}-{setting}_seed-{seed:04d}.png"
        return self.run.path / "baselines" / self.method / name

    def make(self, items: Sequence[Item]) -> None:
        """Make every picture that is not there yet.

        Raises:
            UsageError: the model's family has no image-to-image pipeline.
            ArtifactError: the run has no embeddings.
        """
        with self.run.locked():
            found = self.run.read_embeddings(self.record)
            stamp = self._stamp(found.digest)
            todo = [item for item in items if not self._is_of(self.path(item), stamp)]
            self.tell(Started("generate", len(items) - len(todo), len(items)))
            if todo:
                files.inner_folder(files.inner_folder(self.run.path, "baselines"), self.method)
                draw = self._drawer(found.content.target, found.content.null)
                for done, item in enumerate(todo):
                    self._save(item, to_images(draw(item))[0], stamp)
                    self.tell(Sampled("generate", (done + 1) / len(todo)))
            self._forget_others(stamp)

    def _forget_others(self, stamp: Stamp) -> None:
        # Pictures of another text, source or sampler are no series with these.
        folder = self.run.path / "baselines" / self.method
        for path in sorted(folder.glob(f"{SETTING[self.method]}-*.png")):
            if not self._is_of(path, stamp):
                for gone in (folder / "metrics.csv", path, path.with_suffix(".json")):
                    files.remove(gone)

    def _drawer(self, target: Embedding, null: Embedding) -> Callable[[Item], Tensor]:
        precision = Precision(self.sampling.dtype, pick_device(self.how.device))
        backend = backends.load(self.model)
        if not isinstance(backend, Reworks):
            raise UsageError(f"{self.record.model_name} has no image-to-image pipeline to compare with")
        clean = encode_image(backend, self.run.read_image(), precision.device, BASE)
        source = backend.encode([self.source], precision.device)[0].embedding if self.method == "ddib" else target
        level, codec = backend.level(precision, trainable=False), backend.codec(precision.device)

        def draw(item: Item) -> Tensor:
            setting, seed = item
            if self.method == "sdedit":
                strength = float(setting)
                made = sdedit(backend, level, clean, target, null, strength, [seed], self.sampling, precision)
            else:
                sampling = self.sampling.model_copy(update={"guidance": float(setting)})
                made = ddib(backend, level, clean, source, target, null, sampling, precision)
            return codec.decode(made)

        return draw

    def _stamp(self, embeddings: str) -> Stamp:
        inputs = {"model": self.record.identity, "image": self.record.image.pixels, "embeddings": embeddings}
        told: dict[str, Any] = {"method": self.method, "source": self.source if self.method == "ddib" else ""}
        return Stamp("baseline", "baseline", self.sampling.model_dump() | told, inputs)

    def _is_of(self, path: Path, stamp: Stamp) -> bool:
        with contextlib.suppress(ArtifactError):
            return png.verify(path)["key"] == stamp.key
        return False

    def _save(self, item: Item, image: Any, stamp: Stamp) -> None:
        setting, seed = item
        name = SETTING[self.method]
        record = {
            "method": self.method,
            name: setting,
            "seed": seed,
            "prompt": self.record.text,
            "source": self.source,
            "scheduler": self.sampling.scheduler,
            "steps": self.sampling.steps,
            "dtype": self.sampling.dtype,
            "key": stamp.key,
        }
        parameters = png.a1111(
            prompt=self.record.text,
            negative="",
            steps=self.sampling.steps,
            sampler=self.sampling.scheduler,
            guidance=float(setting) if name == "guidance" else self.sampling.guidance,
            seed=seed,
            width=image.width,
            height=image.height,
            model=self.record.model_name,
            extra={"Method": self.method, name.capitalize(): setting},
        )
        png.save(self.path(item), image, parameters, record)
