"""The progress of a training on the disk: when it is saved, and how it is taken up again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from imagic_cli.artifacts import Progress
from imagic_cli.background import Background
from imagic_cli.config import How
from imagic_cli.container import verify
from imagic_cli.errors import ArtifactError, ImagicError, NumberError
from imagic_cli.events import Listener, Note, Saved
from imagic_cli.freshness import check_progress
from imagic_cli.precision import Precision, environment
from imagic_cli.stages.history import History
from imagic_cli.stamps import Stamp
from imagic_cli.updates import Updates

# A checkpoint by time costs at most one part in this many of the time since the last one.
_SHARE = 20
_SECONDS = 30.0
# Where a copy of all that is kept lies in other memory than the training, it is written while the steps go on.
_ASIDE = ("cuda",)
_LAST_IS_KEPT = "what was saved last is kept; try a lower --lr or --dtype fp32"


class Checkpoints:
    """One file, which holds what the bits of all later steps depend on.

    Entered for as long as steps are made; leaving waits for what is being written.

    Args:
        path: the file.
        stamp: the work; its key decides whether what is found there is of this one.
        told: what the work is called where it is told.
        leaves: what is trained, by name.
        updates: what trains them.
        history: of the steps.
        how: when to save, and whether to be strict.
        precision: device and number format.
        tell: who listens.
    """

    def __init__(
        self,
        path: Path,
        stamp: Stamp,
        told: str,
        leaves: Mapping[str, Tensor],
        updates: Updates,
        history: History,
        how: How,
        precision: Precision,
        tell: Listener,
    ) -> None:
        self.path, self.stamp, self.told, self.leaves, self.updates = path, stamp, told, leaves, updates
        self.history, self.how, self.precision, self.tell = history, how, precision, tell
        self._aside = how.checkpoint_every is None and precision.device.type in _ASIDE
        self._background = Background()

    def __enter__(self) -> Checkpoints:
        self._saved, self._cost = time.monotonic(), 0.0
        self._background.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.__exit__(kind, error, trace)

    def restore(self, force: bool) -> None:
        """Bring leaves, updates and history to where the file left them, if there is one.

        Args:
            force: pass over progress of other work.

        Raises:
            ArtifactError: it is of other work, or of another environment where that is refused.
        """
        found = self._found(force)
        if found is None:
            return
        check_environment(found.extra["environment"], self.precision, self.how.strict, self.tell)
        with torch.no_grad():
            self.updates.restore(self._read())
        if self.updates.scale:
            self.updates.scale.restore(found.extra["scaler"])

    def save_if_due(self, last: bool) -> None:
        """After a step; the last one's result is kept itself.

        Raises:
            DiskError: this one, or one that was being written, is refused.
        """
        if self._is_due(last):
            self.save(self._aside)

    def save(self, aside: bool = False) -> None:
        """Where the training is now.

        Args:
            aside: take a copy and return; it is written while the steps go on.

        Raises:
            NumberError: something is no longer finite; what was saved last is kept.
            DiskError: it is refused.
        """
        begun = time.monotonic()
        self.history.flush()
        # What is being written must not come after this, and if it failed, this takes its place.
        with contextlib.suppress(ImagicError):
            self._background.wait()
        progress, stamp = self._taken(_copied if aside else dict)

        def write() -> None:
            progress.save(self.path, stamp)
            self.tell(Saved(self.told, stamp.extra["step"]))

        if aside:
            self._background.begin(write)
        else:
            write()
        self._saved, self._cost = time.monotonic(), time.monotonic() - begun

    def _read(self) -> Iterator[tuple[Tensor, str, Tensor]]:
        # Takes over leaves and history and passes the moments on, one by one: together they are three times as large as
        # what is trained, and would all be there twice.
        for part, name, value in Progress.each(self.path):
            match part:
                case "leaf":
                    self.leaves[name].copy_(value)
                case "optimizer":
                    owner, _, moment = name.rpartition("/")
                    yield self.leaves[owner], moment, value
                case "losses":
                    self.history.losses = value.tolist()
                case "probes":
                    self.history.probes = [(int(step), loss) for step, loss in value.tolist()]

    def _found(self, force: bool) -> Stamp | None:
        if not self.path.exists():
            return None
        try:
            check_progress(self.path, self.stamp, force=False)
            return verify(self.path, "progress")
        except ArtifactError:
            if force:
                return None
            raise

    def _is_due(self, last: bool) -> bool:
        every = self.how.checkpoint_every
        if every is not None:
            return every > 0 and len(self.history.losses) % every == 0
        # Looked at first, and so at every step: what is refused is told at once.
        ready = not self._background.busy() and not last
        return ready and time.monotonic() - self._saved > max(_SECONDS, _SHARE * self._cost)

    def _taken(self, copied: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> tuple[Progress, Stamp]:
        step = len(self.history.losses)
        check_finite(self.leaves, step)
        moments = {
            f"{name}/{moment}": value
            for name, leaf in self.leaves.items()
            for moment, value in self.updates.state(leaf).items()
        }
        if not all(value.isfinite().all() for value in moments.values()):
            raise NumberError(f"a moment of Adam stopped being finite by step {step}", _LAST_IS_KEPT)
        progress = Progress(
            copied(self.leaves),
            copied(moments),
            torch.tensor(self.history.losses, dtype=torch.float64),
            torch.tensor(self.history.probes, dtype=torch.float64).reshape(-1, 2),
        )
        scale = self.updates.scale.state() if self.updates.scale else {}
        extra = {"step": step, "environment": environment(self.precision.device), "scaler": scale}
        return progress, replace(self.stamp, kind="progress", extra=extra)


def check_finite(leaves: Mapping[str, Tensor], step: int) -> None:
    """Refuse what no later step could mend.

    Raises:
        NumberError: a weight is not finite after `step` steps.
    """
    if not torch.nn.utils.get_total_norm(leaves.values()).isfinite():
        raise NumberError(f"a weight stopped being finite by step {step}", _LAST_IS_KEPT)


def check_environment(
    before: Mapping[str, str], precision: Precision, strict: bool, tell: Listener, work: str = "the progress"
) -> None:
    """Say (or with `strict` refuse) that `work` goes on where its bits may differ from where it began.

    Raises:
        ArtifactError: it may differ, and `strict`.
    """
    now = environment(precision.device)
    changed = [f"{name} {before.get(name, 'unknown')} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if changed and strict:
        raise ArtifactError(f"{work} began elsewhere ({', '.join(changed)})", "drop --strict, or use --force")
    if changed:
        where = f"{work} began elsewhere ({', '.join(changed)})"
        tell(Note(f"warning: {where}: the last bits may differ from an undisturbed run"))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().to("cpu", copy=True) for name, tensor in tensors.items()}
