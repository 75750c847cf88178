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
from imagic_cli.evaluation.fidelity import psnr
from imagic_cli.events import Listener, Pictured
from imagic_cli.image import to_images
from imagic_cli.names import picture_name, variant_name
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.sheet import contact_sheet
from imagic_cli.stamps import Stamp
from imagic_cli.sweep import Item


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
        self.variant = variant_name(record.generate, sampling)
        self.samples_file = run.sample_folder(self.variant) / "samples.safetensors"
        self.folder = run.sample_folder(self.variant) / "images"

    def make_folder(self) -> None:
        """Make the images' folder.

        Raises:
            InputError: something else stands there.
            DiskError: the disk refused.
        """
        folder = self.run.path
        for name in (*(("variants", self.variant) if self.variant else ()), "images"):
            folder = files.inner_folder(folder, name)

    def path(self, item: Item) -> Path:
        """Where an image lies."""
        return self.folder / picture_name(*item)

    def has(self, item: Item) -> bool:
        """Whether an image of this very work is there."""
        eta, seed = item
        with contextlib.suppress(ArtifactError):
            record = png.verify(self.path(item))
            return (record["key"], record["eta"], record["seed"]) == (self.stamp.key, eta, seed)
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

    @property
    def sheet_file(self) -> Path:
        """Where the contact sheet of the last call with several images lies."""
        return self.folder / "sheet.png"

    def sheet(self, items: Sequence[Item]) -> None:
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

        files.commit(self.sheet_file, save)

    def forget_sheet(self) -> None:
        """Remove the contact sheet and the figures: what they show is about to be replaced."""
        for path in (self.sheet_file, self.folder / "metrics.csv", self.folder / "tradeoff.svg"):
            files.remove(path)

    def forget_others(self) -> None:
        """Remove images of other work, once those of this one are there."""
        others = [path for path in sorted(self.folder.glob("eta-*.json")) if self._is_of_other_work(path)]
        for beside in others:
            self.forget_sheet()
            files.remove(beside.with_suffix(".png"))
            files.remove(beside)

    def _is_of_other_work(self, beside: Path) -> bool:
        path = beside.with_suffix(".png")
        if not path.exists():
            return True
        with contextlib.suppress(ArtifactError):
            return png.read_record(path).get("key") != self.stamp.key
        # Damage is for `imagic check` to tell.
        return False

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
        } | ({} if sampling.size is None else {"size": sampling.size})
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
        reconstruction = psnr(*_of_one_size(image, self.run.read_image())) if same else None
        self.tell(Pictured(self.path(item), eta, seed, reconstruction, flagged, reused))


def _of_one_size(image: Image.Image, photo: Image.Image) -> tuple[Image.Image, Image.Image]:
    # A cascade's pictures may be smaller or larger than what was tuned on: the smaller one of both decides.
    size = min(image.size, photo.size)
    return image.resize(size, Image.Resampling.LANCZOS), photo.resize(size, Image.Resampling.LANCZOS)
