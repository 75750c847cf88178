"""What an evaluation leaves for people: tables, the curve over all edits, and an index page of their sheets."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from markupsafe import Markup

from imagic_cli import files
from imagic_cli.evaluation.beside import Beside
from imagic_cli.evaluation.failures import KINDS, Candidates, Kind, Look, Verdict, candidates
from imagic_cli.evaluation.plots import USEFUL, band, matched
from imagic_cli.evaluation.summary import Summary
from imagic_cli.evaluation.table import markdown
from imagic_cli.names import picture_name, plural
from imagic_cli.pages import still

# Of each kind of failure on the page; the table has all.
MOST_SHOWN = 6


@dataclass(frozen=True)
class Shown:
    """A candidate for a kind of failure.

    Attributes:
        name: the edit's, which is its run directory's.
        result: the edit's.
        look: the picture that decides.
        picture: where that lies.
        figures: by name, from the picture at the lowest eta to this one.
    """

    name: str
    result: dict[str, Any]
    look: Look
    picture: str
    figures: dict[str, str]


def columns(found: Summary) -> list[str]:
    """The names of the table's columns."""
    return ["eta", *found.curves]


def rows(found: Summary) -> list[list[str]]:
    """For each eta the mean of every figure over the edits, and its 95 % interval."""
    etas = next(iter(found.curves.values()))
    return [[eta, *(curve[eta].told(".4g") for curve in found.curves.values())] for eta in etas]


def methods_columns(found: Summary) -> list[str]:
    """The names of the columns of `methods_rows`."""
    return ["method", "eta", *found.curves]


def methods_rows(beside: Beside) -> list[list[str]]:
    """For each method and setting the mean of every figure over the edits that all have, and its 95 % interval."""
    return [
        [method, setting, *(figure.told(".4g") for figure in figures.values())]
        for method, settings in beside.means.items()
        for setting, figures in settings.items()
    ]


def write(folder: Path, found: Summary, beside: Beside) -> list[Path]:
    """Write summary.md, edits.csv, tradeoff.svg and index.html, and methods.svg where there are other methods.

    Returns:
        Their paths.

    Raises:
        DiskError: the disk refused.
    """
    title = plural(len(found.results), "edit")
    head = columns(found)
    judged = candidates(found.tables())
    compared = methods_rows(beside)
    shared = f"{plural(beside.shared, 'edit')} that every method has a picture of"
    lines = [f"{title}, {len(found.failures)} failed.", "", *markdown(head, rows(found))]
    if compared:
        lines += ["", f"Over the {shared}:", "", *markdown(methods_columns(found), compared)]
    lines += ["", f"{_counted(found, judged)} By the figures alone (edits.csv): look before you believe them."]
    plot = band(found.curves, found.fidelity, found.alignment, title)
    versus = _versus(found, beside, shared) if compared and found.alignment else None
    page = still(
        "evaluation",
        "'self' file: data:",
        title=title,
        found=found,
        head=head,
        rows=rows(found),
        # Matplotlib's drawing, in which every text is escaped already.
        plot=Markup(plot),
        versus=Markup(versus) if versus else None,
        shared=shared,
        compared_head=methods_columns(found),
        compared=compared,
        edits=[(name, result, _pictures(name, result, beside)) for name, result in found.results.items()],
        judged=judged,
        counted=_counted(found, judged),
        kinds=[(kind, judged.worst(kind), _shown(found, judged, kind)) for kind in KINDS],
    )
    written = {
        "summary.md": "\n".join(lines) + "\n",
        "edits.csv": _edits(found, judged),
        "tradeoff.svg": plot,
        "index.html": page,
    } | ({"methods.svg": versus} if versus else {})
    for name, content in written.items():
        files.commit_bytes(folder / name, content.encode())
    return [folder / name for name in written]


def _versus(found: Summary, beside: Beside, title: str) -> str:
    assert found.alignment is not None
    points = {
        method: {each: (figures[found.fidelity], figures[found.alignment]) for each, figures in settings.items()}
        for method, settings in beside.means.items()
    }
    return matched(points, found.fidelity, found.alignment, title)


def _pictures(name: str, result: dict[str, Any], beside: Beside) -> dict[str, str]:
    """An edit's pictures by what they are: the input, and beside other methods' also ours of a middling eta."""
    theirs = {method: each[name] for method, each in beside.pictures.items() if name in each}
    if not theirs:
        return {"": result["image"]}
    row = min(result["rows"], key=lambda row: abs(float(row["eta"]) - sum(USEFUL) / 2))
    ours = PurePosixPath(result["sheet"]).parent / picture_name(row["eta"], row["seed"])
    return {"input": result["image"], f"imagic, eta {row['eta']}, seed {row['seed']}": str(ours)} | theirs


def _counted(found: Summary, judged: Candidates) -> str:
    counts = {kind.name: len(judged.worst(kind)) for kind in KINDS}
    counts |= {"of neither kind": len(judged.verdicts) - sum(counts.values())}
    counts |= {"not judged": len(found.results) - len(judged.verdicts)}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{told}."


def _shown(found: Summary, judged: Candidates, kind: Kind) -> list[Shown]:
    shown = []
    for name in judged.worst(kind)[:MOST_SHOWN]:
        result, look = found.results[name], judged.verdicts[name].look
        images = PurePosixPath(result["sheet"]).parent
        both = zip(_named(found), (look.aligned, look.faithful), strict=True)
        figures = {figure: f"{old:.4g} → {new:.4g} ({new - old:+.3g})" for figure, (old, new) in both}
        shown.append(Shown(name, result, look, str(images / picture_name(look.eta, look.seed)), figures))
    return shown


def _named(found: Summary) -> tuple[str, str]:
    return found.alignment or "text alignment", found.fidelity


def _edits(found: Summary, judged: Candidates) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    aligned, faithful = _named(found)
    writer.writerow(["edit", "text", "kind", "eta", "seed", "lowest eta", f"{aligned} gained", f"{faithful} lost"])
    for name, result in found.results.items():
        writer.writerow([name, result["text"], *_judgement(judged.verdicts.get(name))])
    return out.getvalue()


def _judgement(verdict: Verdict | None) -> list[object]:
    if verdict is None:
        return ["not judged", *[""] * 5]
    look, kind = verdict.look, verdict.kind.name if verdict.kind else "neither"
    return [kind, look.eta, look.seed, look.lowest, f"{look.gain:.6g}", f"{look.loss:.6g}"]
