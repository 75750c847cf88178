"""Plots as SVG: curves against eta, and losses."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from imagic_cli.evaluation.intervals import Interval
from imagic_cli.evaluation.scoring import Table

# Where the paper finds the edit made and the photograph kept, on average over 150 inputs (section 4.3).
USEFUL = (0.6, 0.8)
_BLUE, _ORANGE = "#2563a8", "#c2590c"


def tradeoff(table: Table, title: str) -> str:
    """Text alignment and fidelity against eta, each image a dot and their means a line, as in the paper's figure 9."""
    figure, axis = _figure(title)
    axis.axvspan(*USEFUL, color="#808080", alpha=0.15, label="the paper's useful range")
    _curve(axis, table, table.fidelity, _BLUE)
    if table.alignment is not None:
        other = axis.twinx()
        _curve(other, table, table.alignment, _ORANGE)
    axis.set_xlabel("eta")
    return _svg(figure)


def band(curves: Mapping[str, Mapping[str, Interval]], fidelity: str, alignment: str | None, title: str) -> str:
    """Text alignment and fidelity against eta: means over many edits and their 95 % bands (the paper's figure 9)."""
    figure, axis = _figure(title)
    axis.axvspan(*USEFUL, color="#808080", alpha=0.15)
    sides = [(axis, fidelity, _BLUE)] + ([(axis.twinx(), alignment, _ORANGE)] if alignment else [])
    for side, name, colour in sides:
        points = curves[name]
        etas = [float(eta) for eta in points]
        side.plot(etas, [each.mean for each in points.values()], color=colour)
        lows, highs = ([getattr(each, end) for each in points.values()] for end in ("low", "high"))
        side.fill_between(etas, lows, highs, color=colour, alpha=0.2, linewidth=0)
        _label(side, name, colour)
    axis.set_xlabel("eta")
    return _svg(figure)


def losses(curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> str:
    """Values against the training step: a line for each name."""
    figure, axis = _figure(title)
    for name, points in curves.items():
        axis.plot([step for step, _value in points], [value for _step, value in points], label=name, linewidth=1.2)
    axis.set_xlabel("step")
    axis.set_yscale("log")
    if curves:
        axis.legend(frameon=False)
    return _svg(figure)


def _curve(axis: Any, table: Table, name: str, colour: str) -> None:
    dots = [(float(eta), row[name]) for (eta, _seed), row in table.rows.items()]
    axis.plot([x for x, _y in dots], [y for _x, y in dots], ".", color=colour, alpha=0.35)
    mean = table.mean(name)
    axis.plot([float(eta) for eta in mean], list(mean.values()), color=colour)
    _label(axis, name, colour)


def _label(axis: Any, name: str, colour: str) -> None:
    axis.set_ylabel(name, color=colour)
    axis.tick_params(axis="y", labelcolor=colour)


def _figure(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.add_subplot()
    axis.set_title(title, fontsize=10)
    axis.spines[["top"]].set_visible(False)
    return figure, axis


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    # Equal figures give equal bytes: no date, and ids that do not change.
    with rc_context({"svg.hashsalt": "imagic"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()
