"""Stage C's images on the disk: names, metadata, and the contact sheet."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from imagic_cli import files, png
from imagic_cli.backends.base import Backend, Codec
from imagic_cli.config import SamplingSettings
from imagic_cli.errors import ArtifactError
from imagic_cli.events import Listener, Pictured
from imagic_cli.image import psnr, to_images
from imagic_cli.run import Record, Run, short_hash, slug
from imagic_cli.sheet import contact_sheet
from imagic_cli.stamps import Stamp

Item = tuple[str, int]
"""Eta, as it is written, and seed."""


class Pictures:
    """The images of one way of sampling.

    Args:
        run: where they lie.
        record: its settings.
        sampling: how they are sampled; what differs from the run's own way names their folder.
        stamp: their samples' work.
        tell: who listens.
    """

    def __init__(self, run: Run, record: Record, sampling: SamplingSettings, stamp: Stamp, tell: Listener) -> None:
        self.record = record
        self.sampling = sampling
        self.stamp = stamp
        self.tell = tell
        self.run = run
        variant = variant_name(record.generate, sampling)
        if variant:
            files.inner_folder(files.inner_folder(run.path, "variants"), variant)
        folder = run.sample_folder(variant)
        self.samples_file = folder / "samples.safetensors"
        self.folder = files.inner_folder(folder, "images")

    def path(self, item: Item) -> Path:
        """Where an image lies."""
        eta, seed = item
        return self.folder / f"eta-{eta}_seed-{seed:04d}.png"

    def has(self, item: Item) -> bool:
        """Whether an image of this very work is there."""
        with contextlib.suppress(ArtifactError):
            return self.path(item).is_file() and png.read_record(self.path(item))["key"] == self.stamp.key
        return False

    def reuse(self, item: Item) -> None:
        """Tell that an image is there already."""
        flagged = bool(png.read_record(self.path(item))["flagged"])
        with Image.open(self.path(item)) as image:
            self._tell(item, image.convert("RGB"), flagged, reused=True)

    def draw(self, backend: Backend, codec: Codec, items: Sequence[Item], clean: Tensor, device: torch.device) -> None:
        """Decode clean samples (B, C, h, w), and save an image for each item."""
        images = to_images(codec.decode(clean))
        for item, image, shown in zip(items, images, backend.screen(images, device), strict=True):
            # A withheld image is black, as the model's makers intend, and is said to be: never in silence.
            picture = shown or Image.new("RGB", image.size)
            self._save(item, picture, flagged=shown is None)
            self._tell(item, picture, flagged=shown is None, reused=False)

    def sheet(self, items: Sequence[Item]) -> Path:
        """Save one contact sheet: etas across, seeds down."""
        etas, seeds = (list(dict.fromkeys(parts)) for parts in zip(*items, strict=True))
        cells = []
        for seed in seeds:
            row = []
            for eta in etas:
                with Image.open(self.path((eta, seed))) as image:
                    row.append(image.convert("RGB"))
            cells.append(row)
        text = self.sampling.prompt or self.record.text
        sheet = contact_sheet(cells, [f"eta {eta}" for eta in etas], [f"seed {seed}" for seed in seeds], text)

        def save(temporary: Path) -> None:
            sheet.save(temporary, format="PNG")

        path = self.folder / "sheet.png"
        files.commit(path, save)
        return path

    def forget(self) -> None:
        """Remove the images and samples: they are of other work."""
        for path in sorted(self.folder.iterdir()):
            files.remove(path)
        files.remove(self.samples_file)

    def _save(self, item: Item, image: Image.Image, flagged: bool) -> None:
        eta, seed = item
        text, sampling = self.sampling.prompt or self.record.text, self.sampling
        record = {
            "model": self.record.model_name,
            "prompt": text,
            "eta": eta,
            "seed": seed,
            "scheduler": sampling.scheduler,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "negative": sampling.negative,
            "pretrained": sampling.pretrained,
            "dtype": sampling.dtype,
            "key": self.stamp.key,
            "flagged": flagged,
        }
        parameters = png.a1111(
            prompt=text,
            negative=sampling.negative,
            steps=sampling.steps,
            sampler=sampling.scheduler,
            guidance=sampling.guidance,
            seed=seed,
            width=image.width,
            height=image.height,
            model=self.record.model_name,
            extra={"Imagic eta": eta},
        )
        png.save(self.path(item), image, parameters, record)

    def _tell(self, item: Item, image: Image.Image, flagged: bool, reused: bool) -> None:
        eta, seed = item
        # At eta = 0 the fine-tuned model should reproduce the input.
        same = float(eta) == 0 and not self.sampling.pretrained
        reconstruction = psnr(image, self.run.read_image()) if same else None
        self.tell(Pictured(self.path(item), eta, seed, reconstruction, flagged, reused))


def variant_name(usual: SamplingSettings, sampling: SamplingSettings) -> str:
    """A folder name for what differs from the run's usual way of sampling; empty if nothing does."""
    parts = []
    for name, value in sampling.model_dump().items():
        if value == getattr(usual, name):
            continue
        if isinstance(value, bool):
            parts.append(name if value else f"not-{name}")
        elif name in {"prompt", "negative"}:
            parts.append(f"{name}-{slug(str(value), 24)}-{short_hash(str(value))}")
        else:
            parts.append(f"{name}-{value}".replace("+", "p"))
    return "_".join(parts)
