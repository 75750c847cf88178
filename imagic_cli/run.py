"""The run directory. It is the state: later commands take only the directory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydantic import ValidationError

from imagic_cli import files
from imagic_cli.artifacts import Embeddings, Loaded, Weights, corrupt, peek, read
from imagic_cli.config import FinetuneSettings, ModelSource, OptimizeSettings, PhotoSettings, SamplingSettings, Settings
from imagic_cli.errors import ArtifactError, InputError, LockedError, UsageError
from imagic_cli.events import Listener, Note
from imagic_cli.stamps import SCHEMA, Stamp, canonical

if TYPE_CHECKING:
    from PIL import Image

_LAST = ".imagic-run"
_OWN = {".lock", ".progress", "image.png", "images", "logs", "run.json", "texts", "variants"}


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
    """The content of `run.json`: the resolved settings, written before work starts."""

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
    history: dict[str, StageRecord] = {}

    @property
    def model_name(self) -> str:
        """What to call the model where the picture goes: no path of this machine."""
        return Path(self.model.source).name if Path(self.model.source).is_absolute() else self.model.source

    def optimize_stamp(self) -> Stamp:
        """What stage A makes with these settings."""
        inputs = {"image": self.image.pixels, "model": self.identity}
        return Stamp("embeddings", "optimize", self.optimize.model_dump() | {"text": self.text}, inputs)

    def finetune_stamp(self, embeddings: str) -> Stamp:
        """What stage B makes of the embeddings with this digest."""
        inputs = {"image": self.image.pixels, "model": self.identity, "embeddings": embeddings}
        return Stamp("weights", "finetune", self.finetune.model_dump(), inputs)

    def generate_stamp(self, sampling: SamplingSettings, embeddings: str, weights: str) -> Stamp:
        """What stage C makes of the embeddings and weights with these digests; weights is 'none' for pretrained."""
        inputs = {"model": self.identity, "embeddings": embeddings, "weights": weights}
        size = {"width": self.image.width, "height": self.image.height}
        return Stamp("samples", "generate", sampling.model_dump() | size, inputs)


class Run:
    """One run directory.

    Args:
        path: the directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image_file = path / "image.png"
        self.embeddings_file = path / "embeddings.safetensors"
        self.weights_file = path / "weights.safetensors"
        self.record_file = path / "run.json"

    def progress_file(self, stage: str) -> Path:
        """Where a stage under way is kept."""
        return self.path / ".progress" / f"{stage}.safetensors"

    def log_file(self, stage: str) -> Path:
        """Losses and probes of a stage, one JSON object per line."""
        return self.path / "logs" / f"{stage}.jsonl"

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
        lock_file = self.path / ".lock"
        if lock_file.is_symlink():
            raise InputError(f"{lock_file} is a symbolic link", "remove it and try again")
        lock = FileLock(lock_file)
        with files.disk_errors(lock_file):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise LockedError(
                    f"{self.path} is in use by process {_holder(lock_file)}", "wait for it, or name another --run"
                ) from None
            _sign(lock_file)
        try:
            for folder in (self.path, *(self.path / name for name in (".progress", "images", "texts", "logs"))):
                files.remove_leftovers(folder)
            for folder in self.path.glob("variants/**/"):
                files.remove_leftovers(folder)
            yield
        finally:
            lock.release()

    def read_record(self) -> Record:
        """What the run recorded.

        Raises:
            ArtifactError: there is no run here, or run.json is not as it was written.
        """
        if not self.record_file.is_file():
            raise ArtifactError(f"no run in {self.path}", "start one with: imagic optimize IMAGE TEXT")
        try:
            content = json.loads(self.record_file.read_bytes())
            digest = content.pop("digest")
            if digest != _digest(content):
                raise ValueError("digest")
            if content["version"] != SCHEMA:
                raise ArtifactError(f"{self.record_file} has layout version {content['version']}, not {SCHEMA}")
            return Record.model_validate(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, ValidationError) as error:
            raise corrupt(self.record_file) from error

    def write_record(self, record: Record) -> None:
        """Replace run.json."""
        content = record.model_dump(mode="json")
        text = json.dumps(content | {"digest": _digest(content)}, indent=2) + "\n"
        files.commit_bytes(self.record_file, text.encode())

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

        if not self.image_file.is_file() or self.image_file.is_symlink():
            raise ArtifactError(f"{self.image_file} is missing", "run imagic optimize again")
        from PIL import Image

        try:
            image = Image.fromarray(photo.read(self.image_file).pixels)
        except InputError as error:
            raise corrupt(self.image_file) from error
        if images.pixels_digest(image) != self.read_record().image.pixels:
            raise ArtifactError(f"{self.image_file} has other pixels than the run began with", "restore it")
        return image

    def read_embeddings(self, record: Record) -> Loaded[Embeddings]:
        """Stage A's result.

        Raises:
            ArtifactError: it is missing, corrupt, or not what the recorded settings make.
        """
        if not self.embeddings_file.exists():
            raise ArtifactError(f"{self.path} has no embeddings yet", f"run: imagic optimize --run {self.path}")
        loaded = Embeddings.load(self.embeddings_file)
        _refuse_stale(self.embeddings_file, loaded.stamp, record.optimize_stamp(), "optimize")
        return loaded

    def read_weights(self, record: Record, embeddings: str) -> Loaded[Weights] | None:
        """Stage B's result, or None where it has not been run.

        Raises:
            ArtifactError: it is corrupt, or not what the recorded settings make of these embeddings.
        """
        if not self.weights_file.exists():
            return None
        loaded = Weights.load(self.weights_file)
        _refuse_stale(self.weights_file, loaded.stamp, record.finetune_stamp(embeddings), "finetune")
        return loaded


def is_done(path: Path, wanted: Stamp, force: bool) -> bool:
    """Whether the artifact at `path` is what `wanted` would make; it is verified, not believed.

    Raises:
        ArtifactError: it is corrupt or of other work, and no `force`.
    """
    if force or not path.exists():
        return False
    found, _tensors, _digest = read(path, wanted.kind)
    if found.key != wanted.key:
        raise ArtifactError(f"{path} is of other work ({', '.join(found.differences(wanted))})", "--force replaces it")
    return True


def check_progress(path: Path, wanted: Stamp, force: bool) -> None:
    """Refuse, before anything is written, to go on from progress of other work.

    Raises:
        ArtifactError: the progress at `path` is of other work or corrupt, and no `force`.
    """
    if force or not path.exists():
        return
    found, _digest = peek(path, "progress")
    if found.key != wanted.key:
        changed = ", ".join(found.differences(wanted))
        raise ArtifactError(f"{path} is progress of other work ({changed})", "--force begins anew")


def _refuse_stale(path: Path, found: Stamp, wanted: Stamp, stage: str) -> None:
    if found.key != wanted.key:
        changed = ", ".join(found.differences(wanted))
        raise ArtifactError(f"{path} is stale ({changed})", f"run: imagic {stage} --force --run {path.parent}")


def new_path(image: str, text: str, pixels: str) -> Path:
    """Where a run goes that was given no directory: names for people, and a hash that keeps runs apart."""
    return Path("runs") / f"{slug(image, 24)}-{slug(text, 40)}-{short_hash(pixels + text)}"


def short_hash(text: str) -> str:
    """Enough of a hash to keep names apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def slug(text: str, longest: int) -> str:
    """A file name's worth of `text`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-") or "x"


def remember(path: Path) -> None:
    """Make `path` the run that later commands in this working directory take."""
    # A read-only working directory only loses this convenience.
    with contextlib.suppress(Exception):
        files.commit_bytes(Path(_LAST), f"{os.path.relpath(path)}\n".encode())


def named_run(path: Path | None) -> Path | None:
    """The run that --run or IMAGIC_RUN names."""
    if path is None and os.environ.get("IMAGIC_RUN"):
        path = Path(os.environ["IMAGIC_RUN"])
    if path is not None and ("\0" in str(path) or any(len(os.fsencode(part)) > 255 for part in path.parts)):
        raise UsageError("--run is no name that a directory can have")
    return path


def existing_run(path: Path | None, tell: Listener) -> Run:
    """The run to go on with: the one named, or the one last used from this working directory, which is told.

    Raises:
        UsageError: none is named and none was used.
    """
    named = named_run(path)
    if named is not None:
        return Run(named)
    pointer = Path(_LAST)
    if not pointer.is_file():
        raise UsageError("no run was used from this directory yet", "name one with --run, or start: imagic optimize")
    last = Path(pointer.read_text(errors="replace").strip())
    tell(Note(f"run: {last}"))
    return Run(last)


def _digest(content: object) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _sign(lock_file: Path) -> None:
    # Into the lock file itself: no second file can disagree with it. Readers meet the old or the new number.
    handle = os.open(lock_file, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.pwrite(handle, f"{os.getpid():<20}\n".encode(), 0)
    finally:
        os.close(handle)


def _holder(lock_file: Path) -> str:
    # The holder signs right after it locks: until then the number of the one before it stands there.
    for _ in range(10):
        with contextlib.suppress(OSError, ValueError):
            number = int(lock_file.read_text())
            os.kill(number, 0)
            return str(number)
        time.sleep(0.05)
    return "unknown"
