"""The command line: the only place that knows Typer and Rich. Nothing here imports torch before work begins."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

import typer

from imagic_cli.cli import usage
from imagic_cli.cli.streams import nowhere, open_streams
from imagic_cli.errors import ImagicError, Interrupted
from imagic_cli.signals import came, end_on_signals, raise_on_signals

# Read while torch is imported, so set before.
ENVIRONMENT = {
    # Threads that spin while they wait are ruinous beside another busy process: a step of the bundled model's A at two
    # threads takes 24 ms on an idle machine, and seconds there. If they sleep at once it takes 49 and 39 ms; with so
    # short a spin (which GNU's OpenMP alone knows) 25 and 90 to 160.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "2000",
    # Linux may give torch's large tensors pages of two megabytes: weights are read through at every step, and finding
    # half a million small pages takes a step of a denoiser of 200 M parameters a tenth longer.
    "THP_MEM_ALLOC_ENABLE": "1",
    # How many of oneDNN's kernels it and torch keep: each is for one shape and has up to half a MiB, and photographs in
    # one process have many shapes. A step needs some dozens.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "256",
}


def main() -> None:
    """Entry point of `imagic`."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    raise_on_signals()
    open_streams()
    code = run(sys.argv[1:])
    end_on_signals()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line, and tell any failure in one line on stderr.

    Returns:
        The exit code; the README lists them.
    """
    try:
        code = _run(arguments)
    except Interrupted as error:
        # A signal came while a failure, or the signal before it, was being told.
        code = error.code
    return _flush(code)


def _run(arguments: list[str]) -> int:
    try:
        from imagic_cli.cli.commands import app

        result = app(arguments, prog_name="imagic", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (Exception, Interrupted) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        number = came()
        code, text = _told(Interrupted(number) if number and isinstance(error, Exception) else error)
        _say(text)
        return code


def _told(error: BaseException) -> tuple[int, str]:
    match error:
        case Interrupted():
            return error.code, str(error)
        case ImagicError():
            return error.code, _one_line(str(error))
        case typer.Abort():
            return 130, "stopped"
        case typer.TyperException():
            return 2, usage.told(error)
        case MemoryError():
            return 8, "out of memory"
        case OSError():
            return 6, _one_line(f"{error.filename or 'the disk'}: {error.strerror or error}")
    return 1, _one_line(f"this is a bug: {type(error).__name__}: {error}; please report it, with --debug")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _say(text: str) -> None:
    # Where stderr goes may be full as well: the code still says it.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"imagic: {text}\n")


def _flush(code: int) -> int:
    try:
        sys.stderr.flush()
    except OSError:
        nowhere(sys.stderr.fileno())
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered would fail again when the interpreter ends.
        nowhere(sys.stdout.fileno())
        if not code:
            _say(f"stdout: {error.strerror}")
        return code or 6
    return code
