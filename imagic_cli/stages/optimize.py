"""Stage A, text embedding optimisation (section 3.2, first step)."""

from __future__ import annotations

import time
from pathlib import Path

from PIL import Image

from imagic_cli import backends, files
from imagic_cli.artifacts import Embeddings
from imagic_cli.backends.source import Model
from imagic_cli.config import How
from imagic_cli.errors import ArtifactError
from imagic_cli.events import Finished, Listener, Note
from imagic_cli.freshness import check_progress, drop_progress, is_done
from imagic_cli.lock import changed_meanwhile
from imagic_cli.memory import release
from imagic_cli.names import BASE
from imagic_cli.optimizers import check_optimizer
from imagic_cli.precision import Precision, environment, memory_errors, pick_device
from imagic_cli.readiness import built_beside
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.stages.objective import encode_image
from imagic_cli.stages.training import Training

_SAVES_MEMORY = "--gradient-checkpointing, a smaller --size, or --dtype fp16 on a GPU"


def optimize(
    run: Run,
    record: Record,
    image: Image.Image,
    model: Model,
    how: How,
    force: bool,
    tell: Listener,
    before: Record | None = None,
) -> None:
    """Fit e, from e_tgt, to the image with the model frozen: min over e of L(x, e, theta).

    Args:
        run: where the result goes; need not exist yet.
        record: the resolved settings.
        image: the prepared photograph.
        model: the pretrained model; its files are only read.
        how: device and the like.
        force: replace a result or progress of other work.
        tell: who listens.
        before: what the run had recorded when `record` was made of it; None where it was not.

    Raises:
        ImagicError: the run is refused, stopped or fails; its exit code says which.
    """
    run.make()
    with run.locked():
        stamp = record.optimize_stamp()
        reused = is_done(run.embeddings_file, stamp, force)
        if not reused:
            check_progress(run.progress_file("optimize"), stamp, force)
            check_optimizer(record.optimize)
            _begin(run, record, image, before)
            precision = Precision(record.optimize.dtype, pick_device(how.device))
            with memory_errors(_SAVES_MEMORY):
                _train(run, record, image, model, how, force, precision, tell)
            release(precision.device)
        else:
            drop_progress(run.progress_file("optimize"), stamp)
            _bring_back(run, image)
            recorded = run.read_record()
            if recorded.model != record.model:
                # The same model from another place: later stages look for it there.
                run.write_record(recorded.model_copy(update={"model": record.model}))
        tell(Finished("optimize", run.embeddings_file, reused))


def _begin(run: Run, record: Record, image: Image.Image, before: Record | None) -> None:
    # Written back whole, `record` would undo what another process recorded since it was read.
    if before is not None and run.read_record() != before:
        raise changed_meanwhile(run.path)

    _save_image(run, image)
    run.write_record(record)


def _bring_back(run: Run, image: Image.Image) -> None:
    # The stamp has its pixels: what is done was done with these.
    try:
        run.read_image()
    except ArtifactError:
        _save_image(run, image)


def _save_image(run: Run, image: Image.Image) -> None:
    def save(temporary: Path) -> None:
        image.save(temporary, format="PNG")

    files.commit(run.image_file, save)


def _train(
    run: Run,
    record: Record,
    image: Image.Image,
    model: Model,
    how: How,
    force: bool,
    precision: Precision,
    tell: Listener,
) -> None:
    started = time.monotonic()
    backend = backends.load(model)
    size = record.image.width, record.image.height
    with built_beside(backend, record.identity, size, BASE, record.optimize.batch, precision):
        clean = encode_image(backend, image, precision.device)
        target, null = backend.encode([record.text, None], precision.device)
        if target.cut:
            tell(Note(f"warning: the text is longer than the model's window; cut off: '{target.cut}'"))
        level = backend.level(precision, trainable=False)
    e = target.embedding.to(precision.device).leaves()

    training = Training(
        run=run,
        stamp=record.optimize_stamp(),
        level=level,
        clean=clean,
        embedding=e,
        leaves=e.tensors(),
        copies=e.tensors(),
        settings=record.optimize,
        how=how,
        precision=precision,
        tell=tell,
        force=force,
    )

    def keep() -> None:
        optimized = e.detach().to("cpu")
        Embeddings(target.embedding, optimized, null.embedding).save(run.embeddings_file, training.stamp)
        run.note_stage(training.told, environment(precision.device), started)

    training.train(keep)
