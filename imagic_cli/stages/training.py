"""What stages A and B share around the loop: progress, logs, probes, and clean stops."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagic_cli import files
from imagic_cli.artifacts import Loaded, Progress
from imagic_cli.backends.base import Level
from imagic_cli.background import Background
from imagic_cli.config import How, TrainSettings
from imagic_cli.embedding import Embedding
from imagic_cli.errors import ArtifactError, NumberError, UsageError
from imagic_cli.events import Listener, Note, Probed, Saved, Started, Stepped
from imagic_cli.fit import Objective, Step, fit
from imagic_cli.freshness import check_progress
from imagic_cli.graph import Graphed, is_graphed
from imagic_cli.memory import keep_freed, release
from imagic_cli.names import part, typed
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision, environment
from imagic_cli.run import Run
from imagic_cli.scale import Scale
from imagic_cli.signals import deferred
from imagic_cli.stages.objective import Drawn, denoising_loss, draw, probe_loss
from imagic_cli.stamps import Stamp
from imagic_cli.updates import Updates

if TYPE_CHECKING:
    from pathlib import Path

# A checkpoint by time costs at most one part in this many of the time since the last one.
_CHECKPOINT_SHARE = 20
_CHECKPOINT_SECONDS = 30.0
# Where a copy of all that is kept lies in other memory than the training, it is written while the steps go on.
_ASIDE = ("cuda",)


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
        self.scale = Scale(self.precision.dtype, self.precision.device) if scaled else None
        leaves, copies = list(self.leaves.values()), [self.copies[name] for name in self.leaves]
        self.updates = Updates(leaves, partial(_optimizer, self.settings), self.scale, copies, self.graphed)
        self.losses: list[float] = []
        self.probes: list[tuple[int, float]] = []
        self.background = Background()

    @property
    def path(self) -> Path:
        """Where the progress is kept."""
        return self.run.progress_file(self.stamp.stage, self.level.name)

    @property
    def told(self) -> str:
        """What the work is called where it is told."""
        return part(self.stamp.stage, self.level.name)

    def train(self) -> None:
        """Run what is left of the stage; afterwards the leaves hold the result.

        Raises:
            Interrupted: a signal came; the progress is saved.
            NumberError: something is no longer finite; the last good progress is kept.
            ArtifactError: there is progress of other work, and no `force`.
        """
        # What loading used for a moment would be held for as long as the steps are.
        release(self.precision.device)
        keep_freed()
        stage, steps = self.stamp.stage, self.settings.steps
        files.inner_folder(self.run.path, ".progress")
        self._restore()
        self._start_log()
        self.tell(Started(self.told, len(self.losses), steps))
        again = f"imagic {typed(stage, self.level.name)}{' --force' if self.force else ''} --run {self.run.path}"
        hint = f"the progress is kept: continue with {again}"
        saved, cost = time.monotonic(), 0.0
        aside = self.how.checkpoint_every is None and self.precision.device.type in _ASIDE
        logged = self.run.log_file(stage, self.level.name).open("a", encoding="utf-8")
        with deferred() as stop, self.background, logged as log:
            if not self.losses and not self.probes:
                self._measure(0, log.write)
            stream = Stream(self.settings.seed, "train", stage, self.level.name)
            made = fit(self.updates, self._objective(), steps, stream, len(self.losses))
            for step in self._keep_good(made):
                self.losses.append(step.loss)
                log.write(_line(step=step.index, loss=step.loss))
                self.tell(Stepped(self.told, step.index, steps, step.loss))
                self._measure(step.index, log.write)
                if stop.number or self._due(step.index, time.monotonic() - saved, cost):
                    begun = time.monotonic()
                    log.flush()
                    self._save(step.index, aside=aside and not stop.number)
                    saved, cost = time.monotonic(), time.monotonic() - begun
                stop.check(hint)
        self._check_leaves(steps)
        # Moments and gradients are as large as what is trained, three times over, and of no use to what follows.
        self.updates.forget()
        release(self.precision.device)

    def finish(self) -> None:
        """Forget the progress, once the artifact is on the disk."""
        files.remove(self.path)

    def _objective(self) -> Objective:
        def drawn(generator: torch.Generator) -> Drawn:
            return draw(self.level, self.clean, self.settings.batch, generator)

        def loss(drawn: Drawn) -> Tensor:
            return denoising_loss(self.level, self.clean, self.embedding, drawn, self.precision)

        if self.graphed:
            return Graphed(drawn, lambda each: self.updates.differentiate(loss(each)), list(self.copies.values()))
        return lambda generator: loss(drawn(generator))

    def _keep_good(self, made: Iterator[Step]) -> Iterator[Step]:
        try:
            yield from made
        except NumberError as error:
            kept = "what was saved last"
            if not self.updates.torn:
                # The loop refused the update: the leaves are those of the step before.
                self._save(len(self.losses))
                kept = f"step {len(self.losses)}"
            raise NumberError(str(error), f"{kept} is kept; try a lower --lr or --dtype fp32") from error

    def _due(self, step: int, since: float, cost: float) -> bool:
        if self.how.checkpoint_every is not None:
            return self.how.checkpoint_every > 0 and step % self.how.checkpoint_every == 0
        # Looked at first, and so at every step: what is refused is told at once. The last step's result is kept itself.
        ready = not self.background.busy() and step < self.settings.steps
        return ready and since > max(_CHECKPOINT_SECONDS, _CHECKPOINT_SHARE * cost)

    def _measure(self, step: int, write: Callable[[str], object]) -> None:
        every = self.how.probe_every
        if every and (step % every == 0 or step == self.settings.steps):
            loss = probe_loss(self.level, self.clean, self.embedding, self.precision)
            self.probes.append((step, loss))
            write(_line(step=step, probe=loss))
            self.tell(Probed(self.told, step, loss))

    def _check_leaves(self, step: int) -> None:
        if not torch.nn.utils.get_total_norm(self.leaves.values()).isfinite():
            raise NumberError(f"a weight stopped being finite by step {step}", "the last good progress is kept")

    def _save(self, step: int, aside: bool = False) -> None:
        # What is being written must not come after this.
        self.background.wait()
        self._check_leaves(step)
        moments = {
            f"{name}/{moment}": torch.as_tensor(value)
            for name, leaf in self.leaves.items()
            for moment, value in self.updates.state(leaf).items()
        }
        if not all(value.isfinite().all() for value in moments.values()):
            raise NumberError(f"a moment of Adam stopped being finite by step {step}", "the last good progress is kept")
        copied = _copied if aside else dict
        progress = Progress(
            copied(self.leaves),
            copied(moments),
            torch.tensor(self.losses, dtype=torch.float64),
            torch.tensor(self.probes, dtype=torch.float64).reshape(-1, 2),
        )
        scale = self.scale.state() if self.scale else {}
        extra = {"step": step, "environment": environment(self.precision.device), "scaler": scale}
        stamp = replace(self.stamp, kind="progress", extra=extra)

        def write() -> None:
            progress.save(self.path, stamp)
            self.tell(Saved(self.told, step))

        if aside:
            self.background.begin(write)
        else:
            write()

    def _found(self) -> Loaded[Progress] | None:
        if not self.path.exists():
            return None
        try:
            check_progress(self.path, self.stamp, force=False)
            return Progress.load(self.path)
        except ArtifactError:
            if self.force:
                return None
            raise

    def _restore(self) -> None:
        loaded = self._found()
        if loaded is None:
            return
        check_environment(loaded.stamp.extra["environment"], self.precision, self.how.strict, self.tell)
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.copy_(loaded.content.leaves[name])
        self._restore_moments(loaded.content.optimizer)
        if self.scale:
            self.scale.restore(loaded.stamp.extra["scaler"])
        self.losses = loaded.content.losses.tolist()
        self.probes = [(int(step), loss) for step, loss in loaded.content.probes.tolist()]

    def _restore_moments(self, moments: Mapping[str, Tensor]) -> None:
        # bitsandbytes counts its steps in a Python number, torch in a tensor: each gets its own back.
        plain = self.settings.optimizer == "adam8bit"
        states: dict[Tensor, dict[str, Tensor | float]] = {leaf: {} for leaf in self.leaves.values()}
        for name, value in moments.items():
            leaf, _, moment = name.rpartition("/")
            states[self.leaves[leaf]][moment] = value.item() if plain and value.ndim == 0 else value
        self.updates.restore(states)

    def _start_log(self) -> None:
        files.inner_folder(self.run.path, "logs")
        probes = dict(self.probes)
        lines = [_line(step=0, probe=probes[0])] if 0 in probes else []
        for step, loss in enumerate(self.losses, 1):
            lines.append(_line(step=step, loss=loss))
            if step in probes:
                lines.append(_line(step=step, probe=probes[step]))
        files.commit_bytes(self.run.log_file(self.stamp.stage, self.level.name), "".join(lines).encode())


def check_environment(before: Mapping[str, str], precision: Precision, strict: bool, tell: Listener) -> None:
    """Say (or with `strict` refuse) that work goes on where its bits may differ from where it began.

    Raises:
        ArtifactError: it may differ, and `strict`.
    """
    now = environment(precision.device)
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if changed and strict:
        raise ArtifactError(f"the progress began elsewhere ({', '.join(changed)})", "drop --strict, or use --force")
    if changed:
        tell(Note(f"warning: resumed with {', '.join(changed)}: the last bits may differ from an undisturbed run"))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().to("cpu", copy=True) for name, tensor in tensors.items()}


def _line(**values: float) -> str:
    return json.dumps(values) + "\n"


def check_optimizer(settings: TrainSettings) -> None:
    """Refuse an optimizer that is not installed, before anything is written.

    Raises:
        UsageError: it is not.
    """
    if settings.optimizer == "adam8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("--optimizer adam8bit needs bitsandbytes", "pip install 'imagic-cli[adam8bit]'")


def _optimizer(settings: TrainSettings, leaves: list[Tensor]) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(leaves, lr=settings.learning_rate, fused=True)
    from bitsandbytes.optim import Adam8bit

    optimizer: torch.optim.Optimizer = Adam8bit(leaves, lr=settings.learning_rate)
    return optimizer
