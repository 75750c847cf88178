"""Losses and probes of a training, and the log that says them line by line."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from imagic_cli import files

if TYPE_CHECKING:
    from typing import TextIO


class History:
    """What every step came to; while it is entered, the log on the disk follows.

    Args:
        path: the log, JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[float] = []
        self.probes: list[tuple[int, float]] = []
        """Steps made, and the loss over fixed draws after them."""

    def __enter__(self) -> History:
        # Anew: after a kill it may end in lines of steps that were not saved.
        probes = dict(self.probes)
        lines = [_line(step=0, probe=probes[0])] if 0 in probes else []
        for step, loss in enumerate(self.losses, 1):
            lines.append(_line(step=step, loss=loss))
            if step in probes:
                lines.append(_line(step=step, probe=probes[step]))
        files.commit_bytes(self.path, "".join(lines).encode())
        self._log: TextIO = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()

    def add_loss(self, loss: float) -> None:
        """Of the step after the last."""
        self.losses.append(loss)
        self._log.write(_line(step=len(self.losses), loss=loss))

    def add_probe(self, loss: float) -> None:
        """Of where the training is."""
        step = len(self.losses)
        self.probes.append((step, loss))
        self._log.write(_line(step=step, probe=loss))

    def flush(self) -> None:
        """What was added is in the file."""
        self._log.flush()


def _line(**values: float) -> str:
    return json.dumps(values) + "\n"
