"""Plots as SVG: curves against eta, and losses."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from imagic_cli.evaluation.intervals import Interval
from imagic_cli.evaluation.table import Table

# Where the paper finds the edit made and the photograph kept, on average over 150 inputs (section 4.3).
USEFUL = (0.6, 0.8)
_BLUE, _ORANGE = "#2563a8", "#c2590c"
_COLOURS = (_BLUE, _ORANGE, "#3a7d34", "#7a4ea3")


def tradeoff(table: Table, title: str, setting: str = "eta") -> str:
    """Text alignment and fidelity against eta, each image a dot and their means a line, as in the paper's figure 9.

    Args:
        table: the figures.
        title: above the plot.
        setting: what the table's first column is, where not eta: a baseline's strength or guidance.
    """
    figure, axis = _figure(title)
    if setting == "eta":
        axis.axvspan(*USEFUL, color="#808080", alpha=0.15, label="the paper's useful range")
    _curve(axis, table, table.fidelity, _BLUE)
    if table.alignment is not None:
        other = axis.twinx()
        _curve(other, table, table.alignment, _ORANGE)
    axis.set_xlabel(setting)
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


def matched(
    lines: Mapping[str, Mapping[str, tuple[Interval, Interval]]], fidelity: str, success: str, title: str
) -> str:
    """Success against fidelity: for each method a line over its settings, each point with both its 95 % intervals.

    Args:
        lines: by method, by setting: fidelity and success.
        fidelity: what the first is, for the axis.
        success: what the second is.
        title: above the plot.
    """
    figure, axis = _figure(title)
    for (method, points), colour in zip(lines.items(), itertools.cycle(_COLOURS), strict=False):
        xs, ys = ([point[side] for point in points.values()] for side in (0, 1))
        errors = {"xerr": _ends(xs), "yerr": _ends(ys)} if points else {}
        means = [[each.mean for each in side] for side in (xs, ys)]
        axis.errorbar(*means, **errors, fmt="o-", color=colour, markersize=3, elinewidth=0.5, label=method)
        for setting, (x, y) in points.items():
            axis.annotate(setting, (x.mean, y.mean), (3, 3), textcoords="offset points", fontsize=7, color=colour)
    axis.set_xlabel(fidelity)
    axis.set_ylabel(success)
    axis.legend(frameon=False)
    return _svg(figure)


def losses(curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> str:
    """Values against the training step: a line for each name."""
    figure, axis = _figure(title)
    for (name, points), colour in zip(curves.items(), itertools.cycle((_BLUE, _ORANGE)), strict=False):
        steps, values = [step for step, _value in points], [value for _step, value in points]
        # Of one step alone: it jumps with noise and timestep, and must not hide the rest.
        faint = {"alpha": 0.6, "linewidth": 0.8} if name == "loss" else {"linewidth": 1.8}
        axis.plot(steps, values, label=name, color=colour, **faint)
    axis.set_xlabel("step")
    axis.set_yscale("log")
    if curves:
        axis.legend(frameon=False)
    return _svg(figure)


def preferences(rates: Mapping[str, tuple[float, float, float]], title: str) -> str:
    """How often one of two was preferred: for each name the rate with its interval (rate, low, high), from 0 to 1."""
    figure, axis = _figure(title, height=1.2 + 0.5 * len(rates))
    axis.axvline(50, color="#808080", linestyle="--", linewidth=1)
    for place, (rate, low, high) in enumerate(rates.values()):
        axis.barh(place, 100 * rate, height=0.6, color=_BLUE, alpha=0.6)
        axis.errorbar(100 * rate, place, xerr=[[100 * (rate - low)], [100 * (high - rate)]], color="black", capsize=4)
    axis.set_yticks(range(len(rates)), list(rates), parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("preferred, % of the answers, with exact 95 % intervals")
    return _svg(figure)


def inline(svg: str) -> str:
    """A plot for the inside of a page: without the XML prolog, in the page's colours, which follow light and dark."""
    body = svg[svg.index("<svg") :]
    for colour, name in {"#000000": "currentColor", _BLUE: "var(--blue)", _ORANGE: "var(--orange)"}.items():
        body = body.replace(colour, name)
    return body


def _curve(axis: Any, table: Table, name: str, colour: str) -> None:
    dots = [(float(eta), row[name]) for (eta, _seed), row in table.rows.items()]
    axis.plot([x for x, _y in dots], [y for _x, y in dots], ".", color=colour, alpha=0.35)
    mean = table.mean(name)
    axis.plot([float(eta) for eta in mean], list(mean.values()), color=colour)
    _label(axis, name, colour)


def _ends(values: Sequence[Interval]) -> list[list[float]]:
    # How far the interval reaches below and above the mean, as matplotlib takes it.
    return [[each.mean - each.low for each in values], [each.high - each.mean for each in values]]


def _label(axis: Any, name: str, colour: str) -> None:
    axis.set_ylabel(name, color=colour, parse_math=False)
    axis.tick_params(axis="y", labelcolor=colour)


def _figure(title: str, height: float = 3.6) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6, height), layout="constrained")
    axis = figure.add_subplot()
    # Dollar signs in a text are no formulas.
    axis.set_title(title, fontsize=10, parse_math=False)
    axis.spines[["top"]].set_visible(False)
    return figure, axis


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    # Equal figures give equal bytes: no date, and ids that do not change.
    with rc_context({"svg.hashsalt": "imagic"}), warnings.catch_warnings():
        # Letters that its font lacks become boxes; nobody can act on the warning.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()
