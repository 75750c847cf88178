"""Stage B, model fine-tuning (section 3.2, second step)."""

from __future__ import annotations

import time

import torch
from PIL import Image
from torch import Tensor

from imagic_cli import backends, files
from imagic_cli.artifacts import Embeddings, Loaded, Weights
from imagic_cli.backends.base import Backend, Level
from imagic_cli.backends.source import Model
from imagic_cli.config import FinetuneSettings, How
from imagic_cli.events import Finished, Listener
from imagic_cli.freshness import check_progress, drop_progress, is_done
from imagic_cli.noise import Stream
from imagic_cli.precision import DTYPES, Precision, environment, memory_errors, pick_device
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.stages.objective import encode_image
from imagic_cli.stages.training import Training, check_optimizer
from imagic_cli.tuning import initialise, leaves

_SAVES_MEMORY = "--method lora, --optimizer adam8bit, --gradient-checkpointing, or a smaller --size at imagic optimize"
# A checkpoint holds what is trained and two moments in fp32, and is written beside the one before it.
_CHECKPOINT_BYTES = 2 * 3 * 4


def finetune(run: Run, record: Record, model: Model, how: How, force: bool, tell: Listener) -> None:
    """Fit the denoiser to the image at e_opt: min over theta, or over a LoRA beside it, of L(x, e_opt, theta).

    Args:
        run: holds stage A's result.
        record: the resolved settings.
        model: the pretrained model; its files are only read.
        how: device and the like.
        force: replace a result or progress of other work.
        tell: who listens.

    Raises:
        ImagicError: the run is refused, stopped or fails; its exit code says which.
    """
    with run.locked():
        started = time.monotonic()
        embeddings = run.read_embeddings(record)
        stamp = record.finetune_stamp(embeddings.digest)
        reused = is_done(run.weights_file, stamp, force)
        if reused:
            drop_progress(run.progress_file("finetune"), stamp)
        else:
            check_progress(run.progress_file("finetune"), stamp, force)
            image = run.read_image()
            check_optimizer(record.finetune)
            _check_space(run, record, model, how)
            run.write_record(record)
            precision = Precision(record.finetune.dtype, pick_device(how.device))
            with memory_errors(_SAVES_MEMORY):
                _train(run, record, image, model, how, force, precision, tell, embeddings)
            run.note_stage("finetune", environment(precision.device), started)
        tell(Finished("finetune", run.weights_file, reused))


def _check_space(run: Run, record: Record, model: Model, how: How) -> None:
    if how.checkpoint_every == 0:
        return
    blank = backends.load(model).blank(record.image.width, record.image.height)
    numbers = sum(each.numel() for each in leaves(blank.level.module, record.finetune).values())
    files.ensure_space(run.path, _CHECKPOINT_BYTES * numbers - files.size(run.progress_file("finetune")))


def _train(
    run: Run,
    record: Record,
    image: Image.Image,
    model: Model,
    how: How,
    force: bool,
    precision: Precision,
    tell: Listener,
    embeddings: Loaded[Embeddings],
) -> None:
    backend = backends.load(model)
    clean = encode_image(backend, image, precision.device)
    level, trained = _trained(backend, record.finetune, precision)
    e = getattr(embeddings.content, level.conditioning).to(precision.device)

    training = Training(
        run=run,
        stamp=record.finetune_stamp(embeddings.digest),
        level=level,
        clean=clean,
        embedding=e,
        leaves=trained,
        settings=record.finetune,
        how=how,
        precision=precision,
        tell=tell,
        force=force,
    )
    training.train()
    deltas = _deltas(backend, level, trained, record.finetune)
    Weights(deltas).save(run.weights_file, training.stamp)
    training.finish()


def _trained(backend: Backend, settings: FinetuneSettings, precision: Precision) -> tuple[Level, dict[str, Tensor]]:
    # Beside a LoRA the denoiser is frozen, and in the precision's own format.
    level = backend.level(precision, trainable=settings.method == "full")
    trained = leaves(level.module, settings)
    if settings.method == "lora":
        initialise(trained, Stream(settings.seed, "lora", "finetune", level.name).at(0))
    return level, trained


@torch.no_grad()
def _deltas(
    backend: Backend, level: Level, trained: dict[str, Tensor], settings: FinetuneSettings
) -> dict[str, Tensor]:
    # The difference is taken in fp32 and stored by itself: merged half-precision weights would swallow most of it.
    dtype = DTYPES[settings.delta_dtype]
    if settings.method == "lora":
        return {f"{level.name}/{name}": after.cpu().to(dtype) for name, after in trained.items()}
    pretrained = backend.level(Precision("fp32", torch.device("cpu")), trainable=False)
    before = dict(pretrained.module.named_parameters())
    return {f"{level.name}/{name}": (after.cpu() - before[name]).to(dtype) for name, after in trained.items()}
