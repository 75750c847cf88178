"""The run directory. It is the state: later commands take only the directory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagic_cli import files, png
from imagic_cli.artifacts import Embeddings, Loaded, Weights
from imagic_cli.errors import ArtifactError, InputError
from imagic_cli.freshness import refuse_stale
from imagic_cli.lock import changed_meanwhile, held, holder
from imagic_cli.names import BASE, part, short_hash, typed
from imagic_cli.record import Record, StageRecord, read_record, write_record

if TYPE_CHECKING:
    from PIL import Image

_OWN = {".lock", ".progress", "ablations", "baselines", "image.png", "images", "logs", "run.json", "texts", "variants"}


class Run:
    """One run directory.

    Args:
        path: the directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image_file = path / "image.png"
        self.embeddings_file = path / "embeddings.safetensors"
        self.record_file = path / "run.json"

    def weights_file(self, level: str = BASE) -> Path:
        """What stage B made of one level."""
        return self.path / f"{part('weights', level)}.safetensors"

    def progress_file(self, stage: str, level: str = BASE) -> Path:
        """Where a stage under way is kept."""
        return self.path / ".progress" / f"{part(stage, level)}.safetensors"

    def log_file(self, stage: str, level: str = BASE) -> Path:
        """Losses and probes of a stage, one JSON object per line."""
        return self.path / "logs" / f"{part(stage, level)}.jsonl"

    def text_file(self, text: str) -> Path:
        """The cached embedding of one text."""
        return self.path / "texts" / f"{short_hash(text)}.safetensors"

    def sample_folder(self, variant: str) -> Path:
        """Where `samples.safetensors` and `images` of one way of sampling lie: the run itself for the run's own way."""
        return self.path / "variants" / variant if variant else self.path

    def make(self) -> None:
        """Make the directory.

        Raises:
            InputError: something else is there: a file, or a directory that no run has made.
            DiskError: the disk refused.
        """
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise InputError(f"{self.path} is not a directory", "name another with --run")
        with files.disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".tmp")}
        if "run.json" not in names and names - _OWN:
            raise InputError(f"{self.path} holds other files", "name an empty or a new directory with --run")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run: nobody else works in it, and what a killed process left half-written is gone.

        Raises:
            LockedError: another process holds it.
        """
        with held(self.path / ".lock"):
            for folder in self.folders():
                files.remove_leftovers(folder)
            yield

    def holder(self) -> int | None:
        """The process that works in it, if one does."""
        return holder(self.path / ".lock")

    def folders(self) -> Iterator[Path]:
        """The run's own folders; what lies behind a symbolic link, or in a run within it, is not the run's."""
        yield self.path
        for name in sorted(_OWN):
            if not (self.path / name).is_symlink():
                for folder, inner, _files in os.walk(self.path / name):
                    yield Path(folder)
                    if name == "ablations":
                        # Runs, whose locks another process may hold.
                        inner.clear()

    def inner(self) -> Iterator[Run]:
        """The runs within it, which ablations made; each has a lock of its own."""
        folder = self.path / "ablations"
        for path in [] if folder.is_symlink() else sorted(folder.glob("*")):
            run = Run(path)
            if not path.is_symlink() and run.record_file.is_file():
                yield run
                yield from run.inner()

    def read_record(self) -> Record:
        """What the run recorded.

        Raises:
            ArtifactError: there is no run here, or run.json is not as it was written.
        """
        return read_record(self.record_file)

    def read_again(self, before: Record) -> Record:
        """What the run, now held, has recorded; `before` was read when another process could still write.

        Raises:
            ArtifactError: there is no run here, or run.json is not as it was written.
            LockedError: meanwhile it has become the run of another stage A.
        """
        record = self.read_record()
        if record.optimize_stamp() != before.optimize_stamp():
            raise changed_meanwhile(self.path)
        return record

    def write_record(self, record: Record) -> None:
        """Replace run.json."""
        write_record(self.record_file, record)

    def note_stage(self, stage: str, environment: dict[str, str], started: float) -> None:
        """Record how a stage that began at monotonic time `started` was computed."""
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = StageRecord(environment=environment, seconds=round(time.monotonic() - started, 3), finished=finished)
        record = self.read_record()
        self.write_record(record.model_copy(update={"history": record.history | {stage: entry}}))

    def read_image(self) -> Image.Image:
        """The prepared photograph.

        Raises:
            ArtifactError: it is missing, or its pixels are not those that stage A saw.
        """
        from imagic_cli import image as images
        from imagic_cli import photo

        back = f"imagic optimize IMAGE TEXT --run {self.path} brings it back"
        if not self.image_file.is_file() or self.image_file.is_symlink():
            raise ArtifactError(f"{self.image_file} is missing", back)
        from PIL import Image

        try:
            png.check_whole(self.image_file)
            image = Image.fromarray(photo.read(self.image_file).pixels)
        except (ArtifactError, InputError) as error:
            raise ArtifactError(f"{self.image_file} is damaged", back) from error
        if images.pixels_digest(image) != self.read_record().image.pixels:
            raise ArtifactError(f"{self.image_file} has other pixels than the run began with", back)
        return image

    def read_embeddings(self, record: Record) -> Loaded[Embeddings]:
        """Stage A's result.

        Raises:
            ArtifactError: it is missing, corrupt, or not what the recorded settings make.
        """
        if not self.embeddings_file.exists():
            raise ArtifactError(f"{self.path} has no embeddings yet", f"run: imagic optimize --run {self.path}")
        loaded = Embeddings.load(self.embeddings_file)
        refuse_stale(self.embeddings_file, loaded.stamp, record.optimize_stamp(), "optimize")
        return loaded

    def read_weights(self, record: Record, embeddings: str, levels: Sequence[str]) -> dict[str, Loaded[Weights]]:
        """Stage B's results, by level, for those of `levels` that it has been run for.

        Raises:
            ArtifactError: one is corrupt, or not what the recorded settings make of these embeddings.
        """
        found = {}
        for level in levels:
            path = self.weights_file(level)
            if path.exists():
                found[level] = Weights.load(path)
                wanted = record.finetune_stamp(embeddings, level)
                refuse_stale(path, found[level].stamp, wanted, typed("finetune", level))
        return found
