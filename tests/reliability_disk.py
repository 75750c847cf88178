"""Group 6: readers during commits, disks that are really full, and the check before a long run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import instant
import torch
import toys
from drive import digests, wait
from reliability import Outcome, ReportProgress, Subject, compared, end, heard, leftovers, said, spread
from reliability_atomicity import Scene, put, scenes, torn
from reliability_resume import die_after_step

from imagic_cli import files
from imagic_cli.container import read, write
from imagic_cli.errors import ImagicError
from imagic_cli.run import Run
from imagic_cli.stamps import Stamp

_DISK = 2 << 20
_USAGE = namedtuple("_USAGE", "total used free")


def polled(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Read an artifact, a record and a picture over and over while another process replaces them."""
    place, outcome = folder / "polled", Outcome(count)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    with instant.denoiser():
        subject = Subject(folder / "instant", steps=3, images=2)
    commits = [partial(_commit, place, Run(subject.home / "finetune"), version) for version in (0, 1)]
    known: dict[str, set[str]] = {}
    for commit in commits:
        commit()
        for name, digest in digests(place).items() | {("run.json", _sha(place / "run.json"))}:
            known.setdefault(name, set()).add(digest)
    writer = os.fork()
    if not writer:
        with contextlib.suppress(BaseException):
            for index in range(count):
                commits[index % 2]()
            os._exit(0)
        os._exit(1)
    reads, seen = 0, set()
    while not os.waitid(os.P_PID, writer, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        reads += 1
        for name, digests_of in known.items():
            digest = _sha(place / name)
            seen.add(digest)
            if digest not in digests_of:
                outcome.count(f"different: {name} torn", f"read {reads}")
        try:
            read(place / "embeddings.safetensors", "embeddings")
            Run(place).read_record()
        except ImagicError as error:
            outcome.count(f"different: {error}", f"read {reads}")
    code = wait(writer)
    outcome.done = count
    if code:
        outcome.count("unrecoverable: the writer failed", "writer")
    outcome.notes.append(f"{reads} rounds of reading during {count} commits each of {len(known)} files")
    if len(seen) < 2 * len(known):
        outcome.notes.append("not every version was met by the reader")
    return outcome


def full_disks(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """The kernel refuses: a limit just below the size of each file, a small disk with little left, a full stdout."""
    with instant.denoiser(), _small_disk(folder / "disk") as disk:
        cases: list[tuple[Scene, str, int]] = []
        for scene in scenes(folder):
            if scene.name in {"new", "over"}:
                cases += [(scene, "limit", size) for size in _limits(scene)]
                cases += [(scene, "stdout", 0)]
                cases += [(scene, "disk", pages * 4096) for pages in (0, 1, 2, 3, 4, 6, 8, 12)] if disk else []
        chosen = spread(cases, count)
        outcome = Outcome(len(chosen))
        refused = 0
        for scene, kind, size in chosen:
            run = (disk if disk and kind == "disk" else folder) / "run"
            code, problem = _filled(scene, kind, size, run, folder)
            refused += code == 6
            outcome.count(problem, f"{scene.name} {scene.stage} {kind} {size}")
            report_progress(outcome.done)
    where = "a file size limit and a small tmpfs" if disk else "a file size limit; no tmpfs can be mounted here"
    outcome.notes.append(f"{where}; {refused} were refused with code 6, the others had room enough")
    return outcome


def preflights(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Stage B before it begins: refused with the number of missing bytes, or let through where they suffice."""
    with instant.denoiser():
        subject = Subject(folder / "instant", steps=3, images=2)
        numbers = 3 * 40 + 3
        needed = 24 * numbers
        progress = subject.begin("finetune", folder / "begun")
        end(*subject.command("finetune", progress, "--checkpoint-every", 1), before=die_after_step(2))
        kept = (progress / ".progress" / "finetune.safetensors").stat().st_size
        cases = [("new", needed, missing) for missing in (needed, 1, 0)]
        cases += [("resumed", needed - kept, missing) for missing in (1, 0)]
        chosen = spread(cases, count)
        outcome = Outcome(len(chosen))
        for name, enough, missing in chosen:
            run = subject.begin("finetune", folder / "run")
            if name == "resumed":
                shutil.rmtree(run)
                shutil.copytree(progress, run)
            problem = _preflight(subject, run, enough, missing)
            outcome.count(problem, f"{name}, {missing} bytes missing")
            report_progress(outcome.done)
    return outcome


def _commit(place: Path, run: Run, version: int) -> None:
    tensors = {"target/tokens": torch.full((77, 768), float(version))}
    write(place / "embeddings.safetensors", Stamp("embeddings", "optimize", {"seed": version}, {}), tensors)
    Run(place).write_record(run.read_record().model_copy(update={"text": f"text {version}"}))
    image = toys.picture(48 + version)
    files.commit(place / "image.png", lambda temporary: image.save(temporary, format="PNG"))


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _limits(scene: Scene) -> list[int]:
    """A limit just below the size of every file, so that each is once the one that fails."""
    sizes = {path.stat().st_size - 1 for path in scene.end.rglob("*") if path.is_file()}
    return sorted(size for size in sizes | {0} if size >= 0)


def _filled(scene: Scene, kind: str, size: int, run: Path, folder: Path) -> tuple[int, str]:
    place, err = folder / "place", folder / "stderr"
    put(scene, run, place)
    filler = run.parent / "filler"

    def little_room() -> None:
        os.chdir(place)
        sys.stdout = Path("/dev/full" if kind == "stdout" else os.devnull).open("w")  # noqa: SIM115
        if kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    if kind == "disk":
        room = shutil.disk_usage(run.parent).free - size
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room)
    # The limit on sizes holds for every file, that of what is said too.
    code = end(*scene.line(run), before=heard(err if kind == "disk" else Path(os.devnull), little_room))
    filler.unlink(missing_ok=True)
    expected = {6} if kind == "stdout" else {0, 6}
    problem = "" if code in expected else f"different: code {code}: {said(err)}"
    problem = problem or torn(scene, run) or (compared(scene.new, digests(run)) if code == 0 else "")
    again = end(*scene.line(run))
    if again:
        return code, f"unrecoverable: {problem}, then code {again}"
    return code, problem or compared(scene.new, digests(run)) or leftovers(run)


def _preflight(subject: Subject, run: Path, enough: int, missing: int) -> str:
    err, before = run.parent / "stderr", digests(run)

    def little_room() -> None:
        shutil.disk_usage = lambda _folder: _USAGE(10**9, 10**9 - enough + missing, enough - missing)

    code = end(*subject.command("finetune", run), before=heard(err, little_room))
    told = said(err)
    if not missing:
        return f"different: code {code}: {told}" if code else subject.compare("finetune", run)
    if code != 6 or not re.search(rf"\b{missing} bytes too few are free", told):
        return f"different: code {code}: {told}"
    return compared(before, digests(run)) or subject.finish("finetune", run)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A tmpfs of two MiB, where this user may mount one."""
    folder.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    line = [mount or "false", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", folder]
    if subprocess.run(line, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
