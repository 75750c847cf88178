"""The full numbers of the reliability tests: resumable, and every figure in the report is of something that ran.

    python tests/torture.py [--work FOLDER] [--kills N] [--groups 1,2,5] [--report FILE]

Done groups are kept in the work folder; one runs again once the package's or the tests' source has changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# First: it fixes threads and environment before torch is imported.
import conftest  # noqa: F401, I001
import reliability_atomicity as atomicity
import reliability_disk as disk
import reliability_integrity as integrity
import reliability_locks as locks
import reliability_numbers as numbers
import reliability_resume as resume
import reliability_signals as signals
import torch
from reliability import Cascade, Group, ReportProgress, warm

HERE = Path(__file__).parent


def groups(kills: int) -> list[Group]:
    """Every line of the report, in its order; a new group is one more line here."""
    everything = Group.ALL
    cascade = functools.partial(resume.kills_at_steps, kind=Cascade, moments=50)
    return [
        Group("1", "kill -9 after every step of A and B and every image of C", everything, resume.kills_at_steps),
        Group("1b", "kill -9 after every step of B with LoRA", everything, resume.lora_kills_at_steps),
        Group("1c", "the same on a cascade: 50 steps of each level, and every image", everything, cascade),
        Group("2", "kill -9 at random times, recovery included", kills, resume.kills_at_random),
        Group("3a", "checkpoint every 1, 3, 7 steps or never: one hash", everything, signals.intervals),
        Group("3b", "SIGTERM and SIGINT at random times", 200, functools.partial(signals.at_random, within=2.0)),
        Group("3c", "a second SIGINT exits at once", 6, functools.partial(signals.second, within=2.0)),
        Group("3d", "signals to a process that is still starting", 20, signals.at_start),
        Group("4a", "same seed, same bytes; other seed, other bytes", everything, resume.seeds),
        Group("4b", "resumed elsewhere: warned, refused with --strict", everything, resume.elsewhere),
        Group("5", "every file operation x every fault", everything, atomicity.every_operation),
        Group("6a", "a reader polling during commits", 1000, disk.polled),
        Group("6b", "a disk that is really full", everything, disk.full_disks),
        Group("6c", "the preflight says how many bytes are missing", everything, disk.preflights),
        Group("7a", "bit flips, 2000 in each of nine kinds of file", 18_000, integrity.bit_flips),
        Group("7b", "cut, longer, swapped, edited, renamed files", everything, integrity.damaged),
        Group("8", "mutated safetensors headers", 100_000, functools.partial(integrity.headers, within=1.0)),
        Group("10", "50 processes start one run", 100, functools.partial(locks.contention, within=1.0)),
        Group("14a", "NaN or Inf in loss, gradient, weight, moment, sample", everything, numbers.not_finite),
        Group("14b", "out of memory", everything, numbers.out_of_memory),
        Group("14c", "1000-step soak of A and B", 2, functools.partial(numbers.soak, steps=1000)),
    ]


def main() -> int:
    """Run what is not done yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "imagic-torture")
    parser.add_argument("--kills", type=int, default=100, help="of group 2, half of them in A, half in B")
    parser.add_argument("--groups", default="", help="only these, by number: 1,2,5 (3 is 3a to 3d)")
    parser.add_argument("--report", type=Path, default=HERE.parent / "docs" / "torture.md")
    told = parser.parse_args()
    report, table, source = told.report.absolute(), groups(told.kills), _source_digest()
    asked = {number for number in told.groups.split(",") if number}
    folder, state = told.work.absolute() / source, told.work.absolute() / "done.json"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.environ.pop("IMAGIC_RUN", None)
    os.chdir(folder)
    warm(folder)
    gc.collect()
    gc.freeze()
    for group in table:
        known = _kept(state).get(group.number)
        if asked and not asked & {group.number, group.number.rstrip("abcdefgh")}:
            continue
        if known and (known["asked"], known["source"]) == (group.wanted, source):
            _say(f"{group.number}: done before")
            continue
        begun = time.monotonic()
        outcome = group.routine(group.wanted, folder, _progress(group))
        entry = {"asked": group.wanted, "source": source, "seconds": round(time.monotonic() - begun)}
        entry |= dataclasses.asdict(outcome)
        # Read again: another process may run other groups in this folder.
        kept = _kept(state) | {group.number: entry}
        _replace(state, json.dumps(kept))
        _replace(report, _report(table, kept, folder))
        _say(f"{group.number}: {_verdict(entry)}, {outcome.done} of {outcome.wanted} in {entry['seconds']} s")
        for failure in outcome.failures:
            _say(f"    {failure}")
    kept = _kept(state)
    _replace(report, _report(table, kept, folder))
    return 0 if all(group.number in kept and _verdict(kept[group.number]) == "passed" for group in table) else 1


def _kept(state: Path) -> dict[str, dict]:
    return json.loads(state.read_text()) if state.exists() else {}


def _source_digest() -> str:
    total = hashlib.sha256(torch.__version__.encode())
    for path in sorted([*(HERE.parent / "imagic_cli").rglob("*.py"), *HERE.glob("*.py")]):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


def _progress(group: Group) -> ReportProgress:
    begun = time.monotonic()
    last = [begun]
    wanted = "" if group.wanted == Group.ALL else f" of {group.wanted}"

    def tell(count: int) -> None:
        now = time.monotonic()
        if now - last[0] > 10:
            last[0] = now
            _say(f"{group.number}: {count}{wanted} done, {now - begun:.0f} s")

    return tell


def _verdict(entry: dict[str, object]) -> str:
    if entry["different"] or entry["unrecoverable"]:
        return "FAILED"
    return "passed" if int(str(entry["done"])) >= int(str(entry["wanted"])) else "not finished"


def _report(table: list[Group], kept: dict[str, dict], folder: Path) -> str:
    date, disk_kind = time.strftime("%Y-%m-%d", time.gmtime()), _file_system(folder)
    lines = [
        "# Reliability: the full numbers",
        "",
        f"Written by `make torture` on {date}: {os.cpu_count()} CPU cores, one thread, torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}, files on {disk_kind}. Toy models of the real classes. "
        "`source` names the state of the package and the tests that a line was run with.",
        "",
        "| group | what | wanted | done | different | unrecoverable | seconds | source | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    columns = ("wanted", "done", "different", "unrecoverable", "seconds", "source")
    remarks = []
    for group in table:
        entry = kept.get(group.number)
        if entry is None:
            wanted = "all" if group.wanted == Group.ALL else group.wanted
            lines.append(f"| {group.number} | {group.title} | {wanted} | 0 | | | | | not run |")
            continue
        counts = " | ".join(str(entry[name]) for name in columns)
        lines.append(f"| {group.number} | {group.title} | {counts} | {_verdict(entry)} |")
        remarks += [f"- {group.number}: {note}" for note in entry["notes"]]
        # Where a failure speaks of a folder of this machine, that is nobody's business.
        told = [failure.replace(str(folder), "...").replace("\n", " ") for failure in entry["failures"]]
        remarks += [f"- {group.number} failed: `{failure}`" for failure in told]
    return "\n".join([*lines, "", *remarks]).rstrip() + "\n"


def _file_system(folder: Path) -> str:
    made = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False)
    return made.stdout.strip() or "an unknown file system"


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
