"""Drawn scenes kept on disk as one array, because drawing one costs as much as a training step can spare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imagic_cli.sketchbook.scenes import SIZE, Split, drawn

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    """The first `train` scenes to learn from and `heldout` to measure on, drawn once into `folder` by `workers`."""

    folder: Path
    train: int = 20_000
    heldout: int = 512
    workers: int = 1

    def count(self, split: Split) -> int:
        """How many scenes of a split there are: none of "test", from which nothing may learn."""
        return {"train": self.train, "judge": self.train, "heldout": self.heldout}.get(split, 0)

    @property
    def ahead(self) -> int:
        """How many processes draw batches ahead of the steps: none beside a single worker, which trains."""
        return self.workers if self.workers > 1 else 0

    def pictures(self, split: Split) -> Pictures:
        """All scenes of a split: uint8 (count, 128, 128, 3), memory-mapped, drawn first if they are missing.

        The file's name holds a digest of some pictures, so that a change of the drawing code draws them anew.
        """
        count = self.count(split)
        probe = hashlib.sha256(b"".join(drawn(split, i).tobytes() for i in range(min(count, 48))))
        path = self.folder / f"scenes-{split}-{count}-{probe.hexdigest()[:12]}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial_path = path.with_suffix(".partial")
            array = np.lib.format.open_memmap(partial_path, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3))
            for i, picture in enumerate(self._each(split)):
                array[i] = picture
            array.flush()
            partial_path.replace(path)
        loaded: Pictures = np.load(path, mmap_mode="r")
        return loaded

    def _each(self, split: Split) -> Iterator[Pictures]:
        numbers = range(self.count(split))
        if self.workers == 1:
            yield from (drawn(split, i) for i in numbers)
            return
        # Forking a process in which torch has started threads may hang.
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(partial(drawn, split), numbers, chunksize=64)


def tensor(pixels: Sequence[Pictures], device: torch.device | str = "cpu") -> torch.Tensor:
    """A batch of uint8 (H, W, 3) as float32 (B, 3, H, W) in [-1, 1], channels last in memory."""
    return floats(stacked(pixels), device)


def stacked(pixels: Sequence[Pictures]) -> torch.Tensor:
    """A batch of uint8 (H, W, 3) as uint8 (B, H, W, 3): a quarter of what `floats` makes of it elsewhere."""
    return torch.from_numpy(np.stack(pixels))


def floats(pixels: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """What `stacked` gave as float32 (B, 3, H, W) in [-1, 1] on a device, channels last in memory."""
    return pixels.to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
