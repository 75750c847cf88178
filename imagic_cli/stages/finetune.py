"""Stage B, model fine-tuning (section 3.2, second step)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from imagic_cli import backends, files
from imagic_cli.artifacts import Embeddings, Loaded, Weights
from imagic_cli.backends.base import Backend, Level
from imagic_cli.backends.source import Model
from imagic_cli.config import FinetuneSettings, How
from imagic_cli.errors import NumberError
from imagic_cli.events import Finished, Listener
from imagic_cli.freshness import check_progress, drop_progress, is_done
from imagic_cli.memory import release
from imagic_cli.names import part
from imagic_cli.noise import Stream
from imagic_cli.optimizers import check_optimizer
from imagic_cli.precision import DTYPES, Precision, environment, memory_errors, pick_device
from imagic_cli.readiness import built_beside
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.stages.objective import encode_image
from imagic_cli.stages.training import Training
from imagic_cli.tuning import initialise, leaves

_SAVES_MEMORY = (
    "--method lora or kv, --optimizer adam8bit, --gradient-checkpointing, or a smaller --size at imagic optimize"
)
# A checkpoint holds what is trained and two moments in fp32, and is written beside the one before it.
_CHECKPOINT_BYTES = 2 * 3 * 4


def finetune(
    run: Run, record: Record, model: Model, levels: Sequence[str], how: How, force: bool, tell: Listener
) -> None:
    """Fit denoisers to the image: min over theta, or over a LoRA beside it, of L(x, e, theta).

    The base is tuned at e_opt, what is above it at e_tgt unless its settings say otherwise.

    Args:
        run: holds stage A's result.
        record: the resolved settings.
        model: the pretrained model; its files are only read.
        levels: which of its denoisers, one after the other; each has a result and progress of its own.
        how: device and the like.
        force: replace a result or progress of other work.
        tell: who listens.

    Raises:
        ImagicError: the run is refused, stopped or fails; its exit code says which.
    """
    with run.locked():
        # Another process may have recorded more since `record` was read, such as the recipe of another level.
        record = run.read_again(record).with_recipes({level: record.recipe(level) for level in levels})
        embeddings = run.read_embeddings(record)
        stamps = {level: record.finetune_stamp(embeddings.digest, level) for level in levels}
        # All are looked at before any is worked on: a refused command has begun nothing.
        todo = [level for level in levels if not is_done(run.weights_file(level), stamps[level], force)]
        for level in todo:
            check_progress(run.progress_file("finetune", level), stamps[level], force)
        if todo:
            image = run.read_image()
            for level in todo:
                check_optimizer(record.recipe(level))
                _check_space(run, record, model, level, how)
            run.write_record(record)
        for level in levels:
            if level in todo:
                precision = Precision(record.recipe(level).dtype, pick_device(how.device))
                with memory_errors(_SAVES_MEMORY):
                    _train(run, record, image, model, level, how, force, precision, tell, embeddings)
                release(precision.device)
            else:
                drop_progress(run.progress_file("finetune", level), stamps[level])
            tell(Finished(part("finetune", level), run.weights_file(level), level not in todo))


def _check_space(run: Run, record: Record, model: Model, level: str, how: How) -> None:
    if how.checkpoint_every == 0:
        return
    blank = backends.load(model).blank(record.image.width, record.image.height, level)
    numbers = sum(each.numel() for each in leaves(blank.level.module, record.recipe(level)).values())
    files.ensure_space(run.path, _CHECKPOINT_BYTES * numbers - files.size(run.progress_file("finetune", level)))


def _train(
    run: Run,
    record: Record,
    image: Image.Image,
    model: Model,
    name: str,
    how: How,
    force: bool,
    precision: Precision,
    tell: Listener,
    embeddings: Loaded[Embeddings],
) -> None:
    started = time.monotonic()
    backend = backends.load(model)
    settings = record.recipe(name)
    size = record.image.width, record.image.height
    with built_beside(backend, record.identity, size, name, settings.batch, precision):
        clean = encode_image(backend, image, precision.device, name)
        level, copies = _trained(backend, name, settings, precision)
    # A step of 5e-7 is lost in half precision: what is trained stays in fp32, and the denoiser has copies of it.
    masters = {name: copy.detach() for name, copy in copies.items()}
    level.module.to(precision.dtype)
    e = getattr(embeddings.content, record.condition(name)).to(precision.device)

    training = Training(
        run=run,
        stamp=record.finetune_stamp(embeddings.digest, name),
        level=level,
        clean=clean,
        embedding=e,
        leaves=masters,
        copies=copies,
        settings=settings,
        how=how,
        precision=precision,
        tell=tell,
        force=force,
    )

    def keep() -> None:
        Weights(_Changes(backend, level, masters, settings)).save(run.weights_file(name), training.stamp)
        run.note_stage(training.told, environment(precision.device), started)

    training.train(keep)


def _trained(
    backend: Backend, name: str, settings: FinetuneSettings, precision: Precision
) -> tuple[Level, dict[str, Tensor]]:
    # Beside a LoRA the denoiser is frozen, and in the precision's own format.
    level = backend.level(precision, settings.method != "lora", name)
    trained = leaves(level.module, settings)
    if settings.method == "lora":
        initialise(trained, Stream(settings.seed, "lora", "finetune", level.name).at(0))
    return level, trained


class _Changes(Mapping[str, Tensor]):
    """What stage B came to, each made when it is asked for, which is once: it is hashed while the next is made.

    The difference is taken in fp32 and stored by itself: merged half-precision weights would swallow most of it.
    """

    def __init__(self, backend: Backend, level: Level, trained: dict[str, Tensor], settings: FinetuneSettings) -> None:
        self.trained = {f"{level.name}/{name}": after for name, after in trained.items()}
        self.dtype = settings.delta_dtype
        self.before: dict[str, Tensor] = {}
        if settings.method != "lora":
            # One weight at a time goes to the device, where all of them once more may not fit.
            pretrained = backend.level(Precision("fp32", torch.device("cpu")), False, level.name)
            self.before = {f"{level.name}/{name}": each for name, each in pretrained.module.named_parameters()}

    def __len__(self) -> int:
        return len(self.trained)

    def __iter__(self) -> Iterator[str]:
        return iter(self.trained)

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        change = self.trained[name]
        if name in self.before:
            change = change - self.before.pop(name).to(change.device)
        stored = change.to(DTYPES[self.dtype])
        if not stored.isfinite().all():
            raise NumberError(
                f"a weight changed by more than {self.dtype} can hold, so nothing is stored",
                "train again with a lower --lr, or --delta-dtype fp32 (and --force where there is progress)",
            )
        return stored.cpu()
