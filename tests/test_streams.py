"""Whoever reads what the command prints: nobody, somebody who goes away, or a stream that was closed from the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import specimen

IMAGIC = [sys.executable, "-m", "imagic_cli"]


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return specimen.copy(specimen.make(tmp_path_factory.getbasetemp()), tmp_path / "run")


def unread(stream: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line of which one stream is a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: writer}
    try:
        return subprocess.run([*IMAGIC, *arguments], check=False, **streams)
    finally:
        os.close(writer)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(("command", "code"), [("--help", 0), ("status run", 0), ("check run", 0), ("optimise", 2)])
def test_a_reader_that_went_away_changes_no_code(stream: str, command: str, code: int, run: Path) -> None:
    made = unread(stream, *command.split())
    assert made.returncode == code, (made.stdout, made.stderr)
    assert b"Traceback" not in (made.stderr or b"")


def test_work_goes_on_when_its_reader_goes_away(run: Path) -> None:
    made = unread("stdout", "generate", "--run", "run", "--seeds", "2", "--json")
    assert made.returncode == 0, made.stderr
    assert (run / "images" / "eta-0.700_seed-0001.png").is_file()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "code"), [("--help", 0), ("status run", 0), ("generate --run run --force", 0), ("optimise", 2)]
)
def test_a_closed_stream_changes_no_code(closed: str, command: str, code: int, run: Path) -> None:
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *IMAGIC, *command.split()]
    made = subprocess.run(shell, capture_output=True, check=False)
    assert made.returncode == code, (made.stdout, made.stderr)
    assert b"Traceback" not in made.stderr
    check = subprocess.run([*IMAGIC, "check", "run"], capture_output=True, check=False)
    assert check.returncode == 0, check.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_stream_is_told_once_and_changes_no_other_code() -> None:
    with Path("/dev/full").open("w") as full:
        told = subprocess.run([*IMAGIC, "doctor"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        mute = subprocess.run([*IMAGIC, "status", "nope"], stdout=subprocess.PIPE, stderr=full, check=False)
    assert (told.returncode, told.stderr.count("No space left")) == (6, 1), told.stderr
    assert mute.returncode == 4
