"""What stages A and B share around the loop: progress, logs, probes, and clean stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from imagic_cli import files
from imagic_cli.backends.base import Level
from imagic_cli.config import How, TrainSettings
from imagic_cli.embedding import Embedding
from imagic_cli.errors import NumberError
from imagic_cli.events import Listener, Note, Probed, Started, Stepped
from imagic_cli.fit import Step, fit
from imagic_cli.graph import Graphed, is_graphed
from imagic_cli.memory import keep_freed, release
from imagic_cli.names import part, typed
from imagic_cli.noise import Stream
from imagic_cli.optimizers import optimizer
from imagic_cli.precision import Precision
from imagic_cli.replay import Replayed, is_replayed
from imagic_cli.run import Run
from imagic_cli.scale import Scale
from imagic_cli.signals import Stop, deferred
from imagic_cli.stages.checkpoints import Checkpoints, check_finite
from imagic_cli.stages.history import History
from imagic_cli.stages.objective import Drawn, denoising_loss, draw, probe_loss
from imagic_cli.stamps import Stamp
from imagic_cli.updates import Updates


@dataclass
class Training:
    """One level of one stage.

    Attributes:
        run: where it is kept.
        stamp: the work; its key decides whether progress found there is this one's.
        level: the denoiser.
        clean: x, (1, C, h, w).
        embedding: e, of one text.
        leaves: what is trained, by name, fp32.
        copies: what of level and embedding they are, by the same names, in the precision's format; may be they.
        settings: the recipe.
        how: the rest.
        precision: device and number format.
        tell: who listens.
        force: throw progress of other work away.
    """

    run: Run
    stamp: Stamp
    level: Level
    clean: Tensor
    embedding: Embedding
    leaves: Mapping[str, Tensor]
    copies: Mapping[str, Tensor]
    settings: TrainSettings
    how: How
    precision: Precision
    tell: Listener
    force: bool

    def __post_init__(self) -> None:
        if self.how.gradient_checkpointing:
            self.level.module.enable_gradient_checkpointing()
        self.graphed = is_graphed(self.precision.device, self.settings, self.how)
        # A graph cannot hold updates within its backward pass; with a scale there is one, after it.
        scaled = self.graphed or self.precision.dtype == torch.float16
        scale = Scale(self.precision.dtype, self.precision.device) if scaled else None
        leaves, copies = list(self.leaves.values()), [self.copies[name] for name in self.leaves]
        # On a GPU a leaf's place in memory can decide by which kernel it is read.
        join = self.precision.device.type != "cuda" and scale is None and self.settings.optimizer == "adam"
        self.updates = Updates(leaves, partial(optimizer, self.settings), scale, copies, self.graphed, join)
        stage, level = self.stamp.stage, self.level.name
        self.told = part(stage, level)
        self.history = History(self.run.log_file(stage, level))
        self.checkpoints = Checkpoints(
            self.run.progress_file(stage, level),
            self.stamp,
            self.told,
            self.leaves,
            self.updates,
            self.history,
            self.how,
            self.precision,
            self.tell,
        )

    def train(self, keep: Callable[[], None]) -> None:
        """Run what is left of the stage, then `keep` what the leaves hold, and forget the progress.

        Raises:
            Interrupted: a signal came; the progress is saved, or after the last step the result.
            NumberError: something is no longer finite; the last good progress is kept.
            ArtifactError: there is progress of other work, and no `force`.
        """
        # What loading used for a moment would be held for as long as the steps are.
        release(self.precision.device)
        keep_freed()
        for folder in (".progress", "logs"):
            files.inner_folder(self.run.path, folder)
        self.checkpoints.restore(self.force)
        steps = self.settings.steps
        self.tell(Started(self.told, len(self.history.losses), steps))
        with deferred() as stop:
            try:
                with self.checkpoints, self.history:
                    self._make_steps(stop)
                check_finite(self.leaves, steps)
            finally:
                # Moments and gradients are as large as what is trained, three times over, of no use to what follows.
                self.updates.forget()
            release(self.precision.device)
            # Without them no progress can be saved any more: a stop waits for the result.
            keep()
            self.finish()

    def finish(self) -> None:
        """Forget the progress, once the artifact is on the disk."""
        files.remove(self.checkpoints.path)

    def _make_steps(self, stop: Stop) -> None:
        made, steps = self.history.losses, self.settings.steps
        again = f"imagic {typed(self.stamp.stage, self.level.name)}{' --force' if self.force else ''}"
        hint = f"the progress is kept: continue with {again} --run {self.run.path}"
        stream = Stream(self.settings.seed, "train", self.stamp.stage, self.level.name)
        if not made and not self.history.probes:
            self._probe(0)
        objective = self._objective()
        for step in self._keep_good(fit(self.updates, self._draw, objective, steps, stream, len(made))):
            self.history.add_loss(step.loss)
            self.tell(Stepped(self.told, step.index, steps, step.loss))
            self._probe(step.index)
            if stop.number:
                self.checkpoints.save()
            else:
                self.checkpoints.save_if_due(step.index == steps)
            stop.check(hint)

    def _draw(self, generator: torch.Generator) -> Drawn:
        return draw(self.level, self.clean, self.settings.batch, generator)

    def _loss(self, drawn: Drawn) -> Tensor:
        return denoising_loss(self.level, self.clean, self.embedding, drawn, self.precision)

    def _tell_plain(self) -> None:
        self.tell(
            Note("warning: this step is made by torch's own kernels, which take longer: ours do not give the same")
        )

    def _objective(self) -> Callable[[Drawn], Tensor]:
        if self.graphed:
            return Graphed(self._loss, list(self.copies.values()), self.updates, self._tell_plain)
        if is_replayed(self.precision, self.level.module):
            return Replayed(self._loss, list(self.copies.values()), self.updates)
        return self._loss

    def _keep_good(self, made: Iterator[Step]) -> Iterator[Step]:
        try:
            yield from made
        except NumberError as error:
            kept = "what was saved last"
            if not self.updates.torn:
                # The loop refused the update: the leaves are those of the step before.
                self.checkpoints.save()
                kept = f"step {len(self.history.losses)}"
            raise NumberError(str(error), f"{kept} is kept; try a lower --lr or --dtype fp32") from error

    def _probe(self, step: int) -> None:
        every = self.how.probe_every
        if every and (step % every == 0 or step == self.settings.steps):
            loss = probe_loss(self.level, self.clean, self.embedding, self.precision)
            self.history.add_probe(loss)
            self.tell(Probed(self.told, step, loss))
