"""Group 5: whatever happens to any file operation, a reader sees the old artifact or the new one."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import instant
from drive import digests
from faults import FAULTS, Disk, applies
from reliability import STAGES, Outcome, ReportProgress, Subject, compared, end, heard, leftovers, said, spread
from reliability_resume import die_after_step

from imagic_cli.container import verify
from imagic_cli.errors import ImagicError
from imagic_cli.run import Run

_QUIET = {stage: ["--probe-every", 0, "--checkpoint-every", 2] for stage in STAGES[:2]}
_REDO = {stage: [*_QUIET.get(stage, []), "--seed", 1, "--force"] for stage in STAGES}


@dataclass
class Scene:
    """One command, from one state of the run.

    Attributes:
        name: of the state.
        stage: the command's.
        line: it, with the run left out.
        start: the run before it.
        end: and after it.
    """

    name: str
    stage: str
    line: Callable[[Path], list[object]]
    start: Path
    end: Path

    @functools.cached_property
    def old(self) -> dict[str, str]:
        """The files before it."""
        return digests(self.start)

    @functools.cached_property
    def new(self) -> dict[str, str]:
        """The files after it."""
        return digests(self.end)


def every_operation(count: int, folder: Path, report_progress: ReportProgress) -> Outcome:
    """Spoil each file operation of each scene's command in each way, and type it again on a sound disk."""
    with instant.denoiser():
        cases = []
        for scene in scenes(folder):
            operations = _operations(scene, folder)
            kinds = [(number, kind, path, fault) for number, kind, path in operations for fault in FAULTS]
            cases += [(scene, *case) for case in kinds if applies(case[3], case[1])]
        chosen = spread(cases, count)
        outcome = Outcome(len(chosen))
        for scene, number, kind, path, fault in chosen:
            problem = _spoiled(scene, number, kind, path, fault, folder)
            outcome.count(problem, f"{scene.name} {scene.stage} operation {number}: {kind} {path}: {fault}")
            report_progress(outcome.done)
        by_fault = {fault: sum(case[4] == fault for case in chosen) for fault in FAULTS}
        counts = ", ".join(f"{number} x {fault}" for fault, number in by_fault.items())
        outcome.notes.append(f"{counts}; a denoiser of a few numbers stands in: only files matter here")
    return outcome


def scenes(folder: Path) -> list[Scene]:
    """Each command in a new run, over an old one with --force, and after kills; and clean."""
    usual = Subject(folder / "instant", steps=3, images=2, flags=_QUIET)
    redone = _redone(usual, folder)
    found = []
    for stage in STAGES:
        start = usual.begin(stage, folder / f"new-{stage}")
        start.mkdir(exist_ok=True)
        found.append(Scene("new", stage, functools.partial(usual.command, stage), start, usual.home / stage))
    for before, stage in zip(("generate", *STAGES), STAGES, strict=False):
        start = usual.home / "generate" if stage == "optimize" else redone[before]
        line = functools.partial(usual.command, stage)
        forced = functools.partial(_with, line, _REDO[stage])
        found.append(Scene("over", stage, forced, start, redone[stage]))
    for stage in STAGES:
        start = _killed(usual, stage, folder / f"killed-{stage}")
        found.append(Scene("killed", stage, functools.partial(usual.command, stage), start, usual.home / stage))
    start, cleaned = _killed(usual, "finetune", folder / "cluttered"), folder / "cleaned"
    shutil.rmtree(cleaned, ignore_errors=True)
    shutil.copytree(start, cleaned, ignore=shutil.ignore_patterns(".progress", ".*tmp*"))
    found.append(Scene("cluttered", "clean", lambda run: ["clean", run], start, cleaned))
    return found


def _with(line: Callable[[Path], list[object]], flags: list[object], run: Path) -> list[object]:
    return [*line(run), *flags]


def _redone(usual: Subject, folder: Path) -> dict[str, Path]:
    """The run after each command of another edit over a finished one."""
    run = folder / "redo"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(usual.home / "generate", run)
    found = {}
    for stage in STAGES:
        code = end(*usual.command(stage, run, *_REDO[stage]))
        assert code == 0, f"{stage} --force ends with code {code}"
        found[stage] = folder / f"redone-{stage}"
        shutil.rmtree(found[stage], ignore_errors=True)
        shutil.copytree(run, found[stage])
    return found


def _killed(usual: Subject, stage: str, run: Path) -> Path:
    """A run that was killed in this stage, with a half-written file in every folder."""
    usual.begin(stage, run)
    if stage == "generate":
        for name in ("images", "texts", "variants/steps-2/images"):
            (run / name).mkdir(parents=True, exist_ok=True)
    else:
        code = end(*usual.command(stage, run), before=die_after_step(2))
        assert code == -signal.SIGKILL
    for place in [run, *(path for path in run.rglob("*") if path.is_dir())]:
        (place / ".weights.safetensors.abc.tmp").write_bytes(b"half")
        (place / ".tmpAbCdEf").write_bytes(b"half")
    return run


def _operations(scene: Scene, folder: Path) -> list[tuple[int, str, str]]:
    run, place, journal = folder / "run", folder / "place", folder / "journal"
    journal.unlink(missing_ok=True)
    put(scene, run, place)
    code = end(*scene.line(run), before=_before(Disk([run, place], journal), place, folder / "stderr"))
    assert code == 0, f"{scene.name} {scene.stage} ends with code {code}: {said(folder / 'stderr')}"
    problem = compared(scene.new, digests(run)) or leftovers(run)
    assert not problem, f"{scene.name} {scene.stage}: {problem}"
    lines = [line.split("\t") for line in journal.read_text().splitlines()]
    return [(int(number), kind, str((place / path).relative_to(folder))) for number, kind, path in lines]


def _spoiled(scene: Scene, number: int, kind: str, path: str, fault: str, folder: Path) -> str:
    run, place, err = folder / "run", folder / "place", folder / "stderr"
    put(scene, run, place)
    code = end(*scene.line(run), before=_before(Disk([run, place], None, number, fault), place, err))
    problem = _wrong_end(kind, path, fault, code, said(err)) or torn(scene, run)
    if code == 0:
        problem = problem or compared(scene.new, digests(run))
    code = end(*scene.line(run))
    if code:
        return f"unrecoverable: {problem}, then code {code}"
    return problem or compared(scene.new, digests(run)) or leftovers(run)


def put(scene: Scene, run: Path, place: Path) -> None:
    """The run as it is before the command, and an empty place to type it in."""
    for each in (run, place):
        shutil.rmtree(each, ignore_errors=True)
    place.mkdir()
    if any(scene.start.iterdir()):
        shutil.copytree(scene.start, run)


def _before(disk: Disk, place: Path, err: Path) -> Callable[[], None]:
    def spoil() -> None:
        os.chdir(place)
        disk.install()

    return heard(err, spoil)


def _wrong_end(kind: str, path: str, fault: str, code: int, told: str) -> str:
    wanted = {6}
    if fault == "kill":
        wanted = {-signal.SIGKILL, -signal.SIGXFSZ} if kind == "save_file" else {-signal.SIGKILL}
    elif fault == "short write" and kind == "write":
        # Python writes the rest.
        wanted = {0}
    elif path.startswith("place") or path.endswith(".lock") or kind in {"mkdir again", "open nameless"}:
        # Which run was used last is a convenience, the lock's signature a courtesy; where a folder is, none is made. In
        # a nameless file filelock tries what it may do in the folder, and goes on without an answer.
        # But a disk that is full stays so, and the next file may be one that counts.
        wanted = {0, 6}
    if code not in wanted:
        return f"different: code {code}, {told!r}"
    return f"different: it says {told!r}" if "Traceback" in told or (code == 6 and "imagic: " not in told) else ""


def torn(scene: Scene, run: Path) -> str:
    """What a reader would find that is neither the old nor the new, or nothing."""
    found = digests(run)
    wrong = [name for name, digest in found.items() if not _whole(scene, run, name, digest)]
    # What is to go stays until all that is new is there. A contact sheet is made anew, progress is nobody's to read.
    passing = (".", "logs/")
    lasting = {name for name in scene.old if not name.startswith(passing) and "/." not in name and "sheet" not in name}
    complete = all(name in found for name in scene.new if "sheet" not in name)
    wrong += [name for name in lasting - set(found) if name in scene.new or not complete]
    if (run / "run.json").exists():
        try:
            Run(run).read_record()
        except ImagicError:
            wrong.append("run.json")
    return f"different: {', '.join(wrong)} torn" if wrong else ""


def _whole(scene: Scene, run: Path, name: str, digest: str) -> bool:
    # Logs grow line by line and are written anew on the next start; temporary files are nobody's to read.
    if digest in {scene.old.get(name), scene.new.get(name)} or name.startswith("logs/") or Path(name).name[0] == ".":
        return True
    kind = "progress" if name.startswith(".progress/") else "samples"
    if kind == "samples" and not name.endswith("samples.safetensors"):
        return False
    try:
        verify(run / name, kind)
    except ImagicError:
        return False
    return True
