"""What an evaluation leaves for people: a table, the curve over all edits, and an index page of their sheets."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from imagic_cli import files
from imagic_cli.evaluation.evaluate import Summary
from imagic_cli.evaluation.intervals import Interval
from imagic_cli.evaluation.plots import band
from imagic_cli.pages import still


def columns(found: Summary) -> list[str]:
    """The names of the table's columns."""
    return ["eta", *found.curves]


def rows(found: Summary) -> list[list[str]]:
    """For each eta the mean of every figure over the edits, and its 95 % interval."""
    etas = next(iter(found.curves.values()))
    return [[eta, *(_told(curve[eta]) for curve in found.curves.values())] for eta in etas]


def _told(found: Interval) -> str:
    return f"{found.mean:.4g} [{found.low:.4g}, {found.high:.4g}]"


def write(folder: Path, found: Summary) -> list[Path]:
    """Write summary.md, tradeoff.svg and index.html; returns their paths.

    Raises:
        DiskError: the disk refused.
    """
    title = f"{len(found.results)} edits"
    head = columns(found)
    lines = [f"{title}, {len(found.failures)} failed.", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows(found)]
    plot = band(found.curves, found.fidelity, found.alignment, title)
    # Matplotlib's drawing, in which every text is escaped already.
    page = still(
        "evaluation", "'self' file: data:", title=title, found=found, head=head, rows=rows(found), plot=Markup(plot)
    )
    written = {"summary.md": "\n".join(lines) + "\n", "tradeoff.svg": plot, "index.html": page}
    for name, content in written.items():
        files.commit_bytes(folder / name, content.encode())
    return [folder / name for name in written]
