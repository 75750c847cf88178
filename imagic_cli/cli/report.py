"""How events look: a progress bar on a terminal, plain lines elsewhere, JSON lines for scripts."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich import filesize
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from imagic_cli.events import Event, Finished, Note, Pictured, Probed, Sampled, Saved, Started, Stepped
from imagic_cli.inspection import State
from imagic_cli.record import Record
from imagic_cli.run import Run

if TYPE_CHECKING:
    from imagic_cli.doctor import Finding
    from imagic_cli.plan import Cost

_PLAIN_SECONDS = 10.0


class Report:
    """Listens to the stages. Results go to stdout, everything else to stderr.

    Args:
        quiet: results and warnings only.
        json_lines: every event as one JSON object on stdout.
    """

    def __init__(self, quiet: bool, json_lines: bool) -> None:
        self.quiet = quiet
        self.json_lines = json_lines
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.stage_began = self.last_line = time.monotonic()
        self.began_at = 0
        self.probe: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._close_bar()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self.json_lines:
            self._write({"event": type(event).__name__.lower(), **dataclasses.asdict(event)})
            return
        match event:
            case Note():
                if not self.quiet or event.text.startswith("warning"):
                    self.say(event.text)
            case Pictured():
                self._pictured(event)
            case Started() | Stepped() | Probed() | Saved() | Sampled() | Finished() if not self.quiet:
                self._progress(event)
            case _:
                pass

    def say(self, text: str) -> None:
        """One line on stderr."""
        self.console.print(text, markup=False)

    def result(self, path: Path, name: str) -> None:
        """One result on stdout, for scripts to take."""
        if self.json_lines:
            self._write({"event": "result", name: path})
        else:
            self._close_bar()
            sys.stdout.write(f"{path}\n")
            sys.stdout.flush()

    def states(self, run: Run, record: Record, found: list[State], suggestion: str) -> None:
        """What `imagic status` shows."""
        if self.json_lines:
            for state in found:
                self._write({"event": "state", **dataclasses.asdict(state)})
            self._write({"event": "next", "command": suggestion})
            return
        table = Table()
        for column in ("stage", "state", "size", "detail"):
            table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
        for state in found:
            table.add_row(state.stage, state.condition, filesize.decimal(state.size), state.detail)
        out = Console(highlight=False)
        # A path that is broken into lines cannot be copied.
        out.print(f"{run.path}: {record.text!r} on {record.model_name}", markup=False, soft_wrap=True)
        out.print(table, markup=False)
        out.print(f"next: {suggestion}", markup=False, soft_wrap=True)

    def findings(self, found: list[Finding]) -> None:
        """What `imagic doctor` shows."""
        if self.json_lines:
            for finding in found:
                self._write({"event": "finding", **dataclasses.asdict(finding)})
            return
        table = Table("what", "how it is", "what to do", show_lines=True)
        for finding in found:
            table.add_row(finding.topic, finding.value, finding.advice or "fine")
        Console(highlight=False).print(table, markup=False)

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Figures in columns; the first one names each row."""
        if self.json_lines:
            for row in rows:
                self._write({"event": "row", **dict(zip(head, row, strict=True))})
            return
        table = Table(title=title, title_justify="left")
        for column in head:
            table.add_column(column, justify="left" if column == head[0] else "right")
        for row in rows:
            table.add_row(*row)
        out = Console(highlight=False, markup=False)
        # Whole, also where the terminal is narrower: it wraps what rich would cut off.
        out.width = max(out.width, out.measure(table, options=out.options.update(max_width=1000)).maximum)
        out.print(table)

    def plan(self, run: Run, record: Record, costs: list[Cost], trained: Mapping[str, State]) -> None:
        """What `--dry-run` shows: the resolved settings, each stage's estimate, and what is there of it already."""
        there = {cost.stage: _there(trained[cost.stage]) if cost.stage in trained else "" for cost in costs}
        if self.json_lines:
            self._write({"event": "plan", "run": run.path, "record": record.model_dump(mode="json")})
            for cost in costs:
                self._write({"event": "cost", **dataclasses.asdict(cost), "there": there[cost.stage]})
            return
        head = ("stage", "work", "TFLOP", "time, about", "memory", "disk", *(["there"] if any(there.values()) else []))
        table = Table(*head, title="Nothing is done", title_justify="left")
        for cost in costs:
            sizes = (filesize.decimal(cost.memory), filesize.decimal(cost.disk))
            cells = (cost.stage, cost.work, f"{cost.flop / 1e12:.3g}", _clock(cost.seconds), *sizes, there[cost.stage])
            table.add_row(*cells[: len(head)])
        out = Console(highlight=False, soft_wrap=True)
        out.print(f"run: {run.path}", markup=False)
        out.print(json.dumps(record.model_dump(mode="json", exclude={"history"}), indent=2), markup=False)
        out.print(table, markup=False)

    def _write(self, content: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(content, default=str) + "\n")
        sys.stdout.flush()

    def _pictured(self, event: Pictured) -> None:
        if event.flagged:
            self.say(f"warning: the model's safety checker withheld {event.path.name}: it is black")
        if self.quiet:
            return
        known = ", up to date" if event.reused else ""
        quality = "" if event.psnr is None else f", {event.psnr:.2f} dB to the input"
        self.say(f"eta {event.eta}, seed {event.seed}{quality}{known}")

    def _progress(self, event: Started | Stepped | Probed | Saved | Sampled | Finished) -> None:
        match event:
            case Started():
                self._open_bar(event)
            case Stepped():
                self._advance(event.stage, event.step, event.total, f"loss {event.loss:.4f}")
            case Sampled():
                self._advance(event.stage, round(event.part * 1000), 1000, "")
            case Probed():
                self.probe = event.loss
                if self.bar is None:
                    self.say(f"{event.stage}: step {event.step}, probe loss {event.loss:.5f}")
            case Finished():
                self._close_bar()
                last = "" if self.probe is None else f", probe loss {self.probe:.5f}"
                self.probe = None
                self.say(f"{event.stage}: {'up to date' if event.reused else 'done'}{last}: {event.path}")
            case Saved():
                pass

    def _open_bar(self, event: Started) -> None:
        self._close_bar()
        self.stage_began = self.last_line = time.monotonic()
        sampling = event.stage in {"generate", "measure"}
        self.began_at = 0 if sampling else event.done
        if event.done and not sampling:
            self.say(f"{event.stage}: resumed at step {event.done} of {event.total}")
        if not self.console.is_terminal:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
        )
        clock = (TimeRemainingColumn(), TextColumn("left"))
        self.bar = Progress(*columns, *clock, console=self.console, transient=True)
        total = 1000 if sampling else event.total
        self.task = self.bar.add_task(event.stage, total=total, completed=self.began_at, told="")
        self.bar.start()

    def _advance(self, stage: str, step: int, total: int, told: str) -> None:
        now = time.monotonic()
        rate = (step - self.began_at) / max(now - self.stage_began, 1e-9)
        if self.bar is not None and self.task is not None:
            probe = "" if self.probe is None else f"  probe {self.probe:.4f}"
            shown = f"{told}{probe}  {rate:.2f} steps/s" if told else ""
            self.bar.update(self.task, completed=step, told=shown)
        elif now - self.last_line > _PLAIN_SECONDS:
            self.last_line = now
            left = (total - step) / max(rate, 1e-9)
            count = f"step {step} of {total}" if told else f"{step / total:.0%}"
            self.say(f"{stage}: {count}{', ' + told if told else ''}, {rate:.2f} steps/s, {_clock(left)} left")

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = self.task = None


def _there(state: State) -> str:
    match state.condition:
        case "missing":
            return ""
        case "done":
            return "done already"
        case "stale":
            return f"other work ({state.detail}): needs --force"
        case other:
            return f"{other}: {state.detail}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
