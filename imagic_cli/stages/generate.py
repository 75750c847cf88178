"""Stage C, text embedding interpolation and generation (section 3.2, third step)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagic_cli import backends, files
from imagic_cli.artifacts import Embeddings, Samples, Text, Weights
from imagic_cli.backends.base import Backend, Codec, Draw, Level
from imagic_cli.backends.source import Model
from imagic_cli.config import How, SamplingSettings
from imagic_cli.embedding import Embedding
from imagic_cli.errors import ArtifactError, NumberError
from imagic_cli.events import Finished, Listener, Note, Sampled, Started
from imagic_cli.freshness import is_done
from imagic_cli.memory import release
from imagic_cli.precision import Precision, environment, memory_errors, pick_device, placed, ready_attention
from imagic_cli.record import Record
from imagic_cli.replay import are_passes_replayed, replayed_passes
from imagic_cli.run import Run
from imagic_cli.signals import deferred
from imagic_cli.stages.checkpoints import check_environment
from imagic_cli.stages.pictures import Pictures
from imagic_cli.stamps import Stamp
from imagic_cli.sweep import Item
from imagic_cli.tuning import changes

_SAVES_MEMORY = "a smaller --batch-size, or --dtype fp16 on a GPU"
_SAVE_SECONDS = 30.0


def generate(
    run: Run,
    record: Record,
    model: Model,
    sampling: SamplingSettings,
    items: Sequence[Item],
    how: How,
    force: bool,
    tell: Listener,
) -> Pictures:
    """Sample images at e_bar = eta * e_tgt + (1 - eta) * e_opt (eq. 3) with the fine-tuned model.

    Args:
        run: holds the results of stages A and B; without B's the pretrained model is used, and that is told.
        record: the recorded settings.
        model: the pretrained model; its files are only read.
        sampling: how to sample.
        items: which images.
        how: device and the like.
        force: replace samples made from other embeddings or weights.
        tell: who listens.

    Returns:
        Where the images lie.

    Raises:
        ImagicError: the run is refused, stopped or fails; its exit code says which.
    """
    with run.locked():
        started = time.monotonic()
        embeddings = run.read_embeddings(record)
        used = record.levels(sampling.size)
        tuned = {} if sampling.pretrained else run.read_weights(record, embeddings.digest, used)
        if not tuned and not sampling.pretrained:
            tell(
                Note("warning: nothing is fine-tuned yet: these images are the pretrained model's; see imagic finetune")
            )
            sampling = sampling.model_copy(update={"pretrained": True})
        elif missing := [level for level in used if level not in tuned and not sampling.pretrained]:
            tell(Note(f"warning: {', '.join(missing)} is not fine-tuned: there the images are the pretrained model's"))
        digests = {level: each.digest for level, each in tuned.items()}
        weights = {level: each.content for level, each in tuned.items()}
        del tuned
        stamp = record.generate_stamp(sampling, embeddings.digest, digests)
        pictures = Pictures(run, record, sampling, stamp, tell)
        samples = _known(pictures, stamp, items, force)
        precision = Precision(sampling.dtype, pick_device(how.device))
        call = _Call(run, record, model, sampling, stamp, how, precision, tell, pictures, samples)
        with memory_errors(_SAVES_MEMORY):
            reused = call.work(items, embeddings.content, weights, force)
        pictures.forget_others()
        if len(items) > 1:
            pictures.sheet(items)
        if not reused:
            run.note_stage("generate", environment(precision.device), started)
        tell(Finished("generate", pictures.samples_file, reused))
        return pictures


@dataclass
class _Call:
    run: Run
    record: Record
    model: Model
    sampling: SamplingSettings
    stamp: Stamp
    how: How
    precision: Precision
    tell: Listener
    pictures: Pictures
    samples: Samples

    def work(self, items: Sequence[Item], found: Embeddings, weights: dict[str, Weights], force: bool) -> bool:
        """Make what is missing; whether nothing was. Takes the weights out of `weights`."""
        todo = [item for item in items if item not in self.samples.clean]
        undrawn = [item for item in items if item not in todo and not self.pictures.has(item)]
        self.tell(Started("generate", len(items) - len(todo), len(items)))
        for item in items:
            if item not in todo and item not in undrawn:
                self.pictures.reuse(item)
        if not todo and not undrawn:
            return True
        began = self.run.read_record().history.get("generate")
        if began is not None and self.samples.clean:
            name = self.pictures.samples_file.name
            check_environment(began.environment, self.precision, self.how.strict, self.tell, name)
        backend = backends.load(self.model)
        passes = backend.passes(self.sampling)
        self.pictures.make_folder()
        codec = backend.codec(self.precision.device, passes[-1].name)
        for item in undrawn:
            self.pictures.draw(backend, codec, [item], self.samples.clean[item], self.precision.device)
        if todo:
            target, null = self._ends(backend, found, force)
            names = [each.name for each in passes if each.name in backend.levels]
            # Once they are added to the model they would only take memory beside it.
            levels = {name: _tuned(backend, name, weights.pop(name, None), self.precision) for name in names}
            release(self.precision.device)
            bars = {eta: found.optimized.lerp(target, float(eta)) for eta, _seed in todo}
            draws = [Draw(bars[eta], target, seed) for eta, seed in todo]
            steps = sum(each.steps for each in passes)
            self._sample(backend, codec, levels, todo, draws, null, steps)
        return False

    def _ends(self, backend: Backend, found: Embeddings, force: bool) -> tuple[Embedding, Embedding]:
        target, null = found.target, found.null
        if self.sampling.prompt is not None:
            target = self._text(backend, self.sampling.prompt, force)
        if self.sampling.negative:
            null = self._text(backend, self.sampling.negative, force)
        return target, null

    def _text(self, backend: Backend, text: str, force: bool) -> Embedding:
        path = self.run.text_file(text)
        stamp = Stamp("text", "generate", {"text": text}, {"model": self.record.identity})
        if is_done(path, stamp, force):
            return Text.load(path).content.embedding
        (encoded,) = backend.encode([text], self.precision.device)
        if encoded.cut:
            self.tell(Note(f"warning: the text is longer than the model's window; cut off: '{encoded.cut}'"))
        files.inner_folder(self.run.path, "texts")
        Text(encoded.embedding).save(path, stamp)
        return encoded.embedding

    def _sample(
        self,
        backend: Backend,
        codec: Codec,
        levels: Mapping[str, Level],
        todo: list[Item],
        draws: list[Draw],
        null: Embedding,
        steps: int,
    ) -> None:
        size = self.how.batch_size or (4 if self.precision.device.type == "cuda" else 1)
        picture = self.record.image.width, self.record.image.height
        embeddings, clean = dict(self.samples.embeddings), dict(self.samples.clean)
        saved = time.monotonic()
        done, total = 0, len(todo) * steps
        modules = [level.module for level in levels.values()]
        replayed = [each for each in modules if are_passes_replayed(self.precision, each)]
        with ready_attention(self.precision.device), replayed_passes(replayed), deferred() as stop:

            def advance() -> None:
                nonlocal done
                done += len(batch)
                self.tell(Sampled("generate", min(1.0, done / total)))
                stop.check(f"finished images are kept: the same command continues (--run {self.run.path})")

            try:
                for start in range(0, len(todo), size):
                    batch, drawn = todo[start : start + size], draws[start : start + size]
                    made = backend.render(levels, drawn, null, self.sampling, picture, self.precision, advance)
                    _check_finite(made, batch)
                    embeddings |= {eta: draw.embedding for (eta, _seed), draw in zip(batch, drawn, strict=True)}
                    clean |= dict(zip(batch, made.split(1), strict=True))
                    self.pictures.draw(backend, codec, batch, made, self.precision.device)
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        Samples(embeddings, clean).save(self.pictures.samples_file, self.stamp)
                        saved = time.monotonic()
            finally:
                if len(clean) > len(self.samples.clean):
                    Samples(embeddings, clean).save(self.pictures.samples_file, self.stamp)


def _known(pictures: Pictures, stamp: Stamp, items: Sequence[Item], force: bool) -> Samples:
    path = pictures.samples_file
    if is_done(path, stamp, force):
        return Samples.load(path).content
    if not force:
        return Samples({}, {})
    pictures.forget_sheet()
    # Forced: what was asked for is made again; the rest stays if it is of this very work.
    with contextlib.suppress(ArtifactError):
        found = Samples.load(path)
        if found.stamp.key == stamp.key:
            kept = {item: clean for item, clean in found.content.clean.items() if item not in items}
            return Samples({eta: found.content.embeddings[eta] for eta, _seed in kept}, kept)
    return Samples({}, {})


def _tuned(backend: Backend, name: str, weights: Weights | None, precision: Precision) -> Level:
    # Added in fp32, and only then rounded: a small change to a half-precision weight would be lost. For that the device
    # is given one weight at a time, for all of them in fp32 may not fit.
    level = backend.level(Precision("fp32", torch.device("cpu")), False, name)
    if weights is not None:
        parameters = dict(level.module.named_parameters())
        for parameter, change in changes(weights.of(name), precision.device):
            merged = parameters[parameter].to(precision.device).add_(change)
            parameters[parameter].data = merged.to(precision.dtype)
    placed(level.module.to(precision.dtype), precision.device)
    return level


def _check_finite(made: Tensor, batch: Sequence[Item]) -> None:
    for (eta, seed), clean in zip(batch, made, strict=True):
        if not clean.isfinite().all():
            raise NumberError(f"the sample at eta {eta}, seed {seed} is not finite", "try --dtype fp32")
