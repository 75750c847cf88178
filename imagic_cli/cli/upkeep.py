"""How a run and this machine are, and what may go."""

from __future__ import annotations

from imagic_cli import inspection, verification
from imagic_cli.cli import options as o
from imagic_cli.cli.report import Report
from imagic_cli.errors import ArtifactError
from imagic_cli.events import Note
from imagic_cli.locate import existing_run


def status(run: o.RunArgument = None, json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """Each stage: done, stale and why, resumable, or missing; and what to type next."""
    with Report(False, json) as report:
        chosen = existing_run(run, report)
        found = inspection.states(chosen)
        report.states(chosen, chosen.read_record(), found, inspection.suggestion(found, chosen))
        if process := chosen.holder():
            report(Note(f"process {process} works in {chosen.path}: wait for it before you type that"))


def check(run: o.RunArgument = None, json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """Verify every artifact and picture of a run; exit code 4 names the ones that are not as they were written."""
    with Report(False, json) as report:
        chosen = existing_run(run, report)
        found = verification.problems(chosen)
        if found:
            raise ArtifactError(" | ".join(found))
        whole = "every file with a checksum is as it was written (logs, tables, plots and pages have none)"
        report(Note(f"{chosen.path}: {whole}"))


def clean(run: o.RunArgument = None, json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """Remove what can be made again: progress, cached texts, and leftovers of killed processes."""
    with Report(False, json) as report:
        for path in inspection.clean(existing_run(run, report)):
            report.result(path, "removed")


def doctor(json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """What this machine offers, what on it is known to go wrong, and what to do about it."""
    from imagic_cli.doctor import findings

    with Report(False, json) as report:
        report.findings(findings())
