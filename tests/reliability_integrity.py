"""Groups 7 and 8: no damage to a file of a run goes unseen, and no header does harm."""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import specimen
from damage import damages
from mutations import mutate
from reliability import Outcome, ReportProgress, spread

from imagic_cli import png
from imagic_cli.container import peek, read
from imagic_cli.errors import ArtifactError
from imagic_cli.inspection import states
from imagic_cli.run import Run
from imagic_cli.verification import problems

_BATCH = 500
# A prime, so that the kinds take turns.
_WHOLE_CHECK = 19
_MOST_MEMORY = 500_000_000


def bit_flips(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Group 7, first part: random bits, as many in each kind of file; half of them among the first 2 KiB."""
    run = specimen.copy(specimen.make(folder), folder / "flipped")
    chance = random.Random(count)
    outcome = Outcome(count)
    while outcome.done < count:
        for kind in specimen.FILES:
            path = specimen.place(run, kind)
            whole = path.read_bytes()
            within = len(whole) if chance.random() < 0.5 else min(len(whole), 2048)
            position = chance.randrange(8 * within)
            damaged = bytearray(whole)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            # All of `imagic check` takes ten times the time of what it does to this one file.
            look = _seen if outcome.done % _WHOLE_CHECK == 0 else _seen_alone
            outcome.count(look(run, path, kind), f"{kind}, bit {position}")
            path.write_bytes(whole)
        report_progress(outcome.done)
    outcome.notes.append(
        f"{len(specimen.FILES)} kinds of file, {outcome.done // len(specimen.FILES)} flips in each; "
        f"every {_WHOLE_CHECK}th through all of imagic check, the others through its part for that file"
    )
    return outcome


def damaged(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Group 7, second part: cut, longer, empty, of another run, edited by hand, under another's name."""
    usual = specimen.make(folder)
    cases = list(damages(folder))
    chosen = spread(cases, count)
    outcome = Outcome(len(chosen))
    for name, path, damage in chosen:
        run = specimen.copy(usual, folder / "damaged")
        damage(run)
        outcome.count(_seen(run, run / path, ""), name)
        report_progress(outcome.done)
    return outcome


def headers(count: int, folder: Path, report_progress: ReportProgress, within: float | None = None) -> Outcome:
    """Group 8: mutated headers, in forks with 500 MB more than they begin with; `within` seconds each."""
    run = specimen.make(folder)
    sources = [(kind, specimen.place(run, kind).read_bytes()) for kind in specimen.ARTIFACTS]
    outcome = Outcome(count)
    refused = 0
    while outcome.done < count:
        size = min(_BATCH, count - outcome.done)
        answers = _look(sources, outcome.done, size, folder, within)
        for number, answer in enumerate(answers, outcome.done):
            refused += answer == "refused"
            outcome.count("" if answer in {"read", "refused"} else f"different: {answer}", f"mutation {number}")
        report_progress(outcome.done)
    outcome.notes.append(f"{refused} refused, {outcome.done - refused} read: their content was whole")
    return outcome


def _seen_alone(run: Path, path: Path, kind: str) -> str:
    look: dict[str, Callable[[], object]] = {
        "run.json": Run(run).read_record,
        "image.png": Run(run).read_image,
        "picture": lambda: png.verify(path),
        "record": lambda: png.verify(path.with_suffix(".png")),
    }
    try:
        look.get(kind, lambda: read(path, kind))()
    except ArtifactError as error:
        return "" if path.name in str(error) else f"different: not named in {error}"
    return "different: not seen"


def _seen(run: Path, path: Path, _kind: str) -> str:
    try:
        states(Run(run))
        found = problems(Run(run))
    except ArtifactError as error:
        found = [str(error)]
    except Exception as error:
        return f"different: {type(error).__name__}: {error}"
    if any(path.name in each for each in found):
        return ""
    return f"different: not named in {found}" if found else "different: not seen"


def _look(sources: list[tuple[str, bytes]], first: int, size: int, folder: Path, within: float | None) -> list[str]:
    """What became of mutations first, first + 1, ...: `size` of them, or up to the one that ended the fork."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        try:
            _limit_memory()
            for number in range(first, first + size):
                if within is not None:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    signal.setitimer(signal.ITIMER_REAL, within)
                kind, whole = sources[number % len(sources)]
                answer = _read(kind, mutate(whole, random.Random(number)), folder / "mutated.safetensors")
                os.write(writing, f"{answer}\n".encode())
        except BaseException as error:
            os.write(writing, f"{type(error).__name__} around it: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answers = pipe.read().splitlines()
    _pid, status = os.waitpid(pid, 0)
    if len(answers) < size:
        answers.append(f"the process ended with {os.waitstatus_to_exitcode(status)}")
    return answers


def _read(kind: str, content: bytes, path: Path) -> str:
    path.write_bytes(content)
    answers = set()
    for look in (peek, read):
        try:
            look(path, kind)
            answers.add("read")
        except ArtifactError:
            answers.add("refused")
        except BaseException as error:
            return f"{type(error).__name__} of {look.__name__}: {error}".replace("\n", " ")
    return "refused" if "refused" in answers else "read"


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
