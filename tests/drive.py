"""Drive the real command: in this process, in a fork of it (imports already made), or in a fresh one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from imagic_cli import cli


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def imagic(*arguments: object) -> Result:
    """Run a command line in this process, through the entry point's own error handling."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> Result:
    """`imagic`, and it must have succeeded."""
    result = imagic(*arguments)
    assert result.code == 0, result.err
    return result


def fork(*arguments: object, before: Callable[[], object] = lambda: None) -> int:
    """Start a command line in a fork of this process and return its pid; `before` runs in the child."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        from imagic_cli.signals import raise_on_signals

        raise_on_signals()
        before()
        code = cli.run([str(argument) for argument in arguments])
    except BaseException:
        code = 99
    os._exit(code)


def wait(pid: int) -> int:
    """The exit code of a fork; minus the signal's number if one killed it."""
    _pid, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def kill(pid: int) -> None:
    """kill -9, and wait."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait(pid)


def fresh(*arguments: object, **options: object) -> Result:
    """Run a command line in a process of its own."""
    command = [sys.executable, "-m", "imagic_cli", *(str(argument) for argument in arguments)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    return Result(made.returncode, made.stdout, made.stderr)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file under a folder but the lock and run.json (which holds times), by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {".lock", "run.json"}
    }


def stopped(last: int, *command: object) -> None:
    """Run a command that fails after so many steps."""
    from imagic_cli.stages import training

    fit = training.fit

    def stopping(*arguments: object) -> Iterator[object]:
        for step in fit(*arguments):
            yield step
            if step.index == last:
                raise RuntimeError("stopped")

    with mock.patch.object(training, "fit", stopping):
        assert imagic(*command).code == 1
