"""What the benchmark's scores say together, each figure with its 95 % interval over pairs: a table, and two plots."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from imagic_cli.errors import InputError
from imagic_cli.evaluation import table
from imagic_cli.evaluation.intervals import Interval, bootstrap
from imagic_cli.evaluation.plots import band, matched
from imagic_cli.names import plural
from imagic_cli.sheet import contact_sheet
from imagic_cli.sketchbook.bench import CURVE, ETAS, Score
from imagic_cli.sketchbook.pairs import FIELDS

# Success counts at this fidelity to the untouched part of the input, dB: "equal fidelity" for every method.
FLOORS = (16.0, 18.0, 20.0, 22.0)
_MIDDLE = float(ETAS[len(ETAS) // 2])
# The other etas have fewer seeds, and are for the curve alone.
_TABLED = (0.0, *map(float, ETAS))
KEPT, ALIGNED = "PSNR to the input outside the edit, dB", "CLIP score"
# Those whose settings trade the edit for fidelity.
_TRADING = ("imagic", "B off", "SDEdit", "DDIB")
_RIVALS = ("B off", "A off", "text to image", "SDEdit", "DDIB")

_TRIVIAL = ("input unchanged", "answer blurred", "half and half")
_SHOWN = 10

Scores = Sequence[Score]


@dataclass(frozen=True)
class Row:
    """One way to edit, over all pairs.

    Attributes:
        method: and its setting, or how many settings are pooled.
        tries: pictures per pair to pick from.
        best: share of pairs with a success among the tries.
        one: share in which a single fixed try is one.
        clip: share in which the picture with the highest CLIP score is one.
        floors: `best` among tries of at least so many dB to the input's untouched part.
        answer_psnr: of the best picture to the true answer, dB.
        answer_ssim: the same, SSIM.
        kept_psnr: of the best picture to the input, outside what the true answer changes, dB.
    """

    method: str
    tries: int
    best: Interval
    one: Interval
    clip: Interval
    floors: dict[float, Interval]
    answer_psnr: Interval
    answer_ssim: Interval
    kept_psnr: Interval


def gallery(folder: Path) -> Image.Image:
    """The first pairs' pictures: the input, the true answer, and what the judge thinks each method's best."""
    cells, texts, names = [], [], []
    for path, told in islice(_results(folder), _SHOWN):
        names = ["input", "true answer", *dict.fromkeys(score["method"] for score in told["scores"])]
        with Image.open(path.with_suffix(".png")) as strip:
            whole = strip.convert("RGB")
        width = whole.width // len(names)
        parts = [whole.crop((i * width, 0, i * width + whole.height, whole.height)) for i in range(len(names))]
        cells.append([part for part, name in zip(parts, names, strict=True) if name not in _TRIVIAL])
        texts.append(told["text"])
    return contact_sheet(cells, [name for name in names if name not in _TRIVIAL], texts)


def read(folder: Path) -> dict[str, list[Score]]:
    """The scores of every finished pair, by its file's name.

    Raises:
        InputError: there are none.
    """
    found = {path.stem: [Score(**each) for each in told["scores"]] for path, told in _results(folder)}
    if not found:
        raise InputError(f"{folder} holds no benchmark results", "run: imagic bench sketchbook")
    return found


def read_fields(folder: Path) -> dict[str, str]:
    """What every finished pair changes, by its file's name."""
    return {path.stem: told["field"] for path, told in _results(folder)}


def _results(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob("pair-*.json")):
        yield path, json.loads(path.read_text(encoding="utf-8"))


def rows(pairs: Mapping[str, Scores]) -> list[Row]:
    """One row per method and setting, and one per method over its settings where it has several."""
    found = []
    for method, settings in _settings(pairs).items():
        chosen = _pooled(pairs, method, settings)
        if len(chosen) > 1:
            found.append(_row(f"{method}, {len(chosen)} settings", pairs, _of(method, chosen), _single(chosen)))
        for setting in settings:
            label = f"{method} {setting:g}" if len(settings) > 1 else method
            found.append(_row(label, pairs, _of(method, [setting]), setting))
    return found


def _settings(pairs: Mapping[str, Scores]) -> dict[str, list[float]]:
    found: dict[str, set[float]] = {}
    for scores in pairs.values():
        for score in scores:
            if score.method != "imagic" or score.setting in _TABLED:
                found.setdefault(score.method, set()).add(score.setting)
    return {method: sorted(settings) for method, settings in found.items()}


def _pooled(pairs: Mapping[str, Scores], method: str, settings: Sequence[float]) -> list[float]:
    if method == "SDEdit":
        return _strongest(pairs, settings)
    return [setting for setting in settings if method != "imagic" or setting > 0]


def _strongest(pairs: Mapping[str, Scores], settings: Sequence[float]) -> list[float]:
    """The settings with the highest success, as many as Imagic has etas: the comparison favours the other method."""

    def rate(setting: float) -> float:
        return _row("", pairs, _of("SDEdit", [setting]), setting).best.mean

    return sorted(sorted(settings, key=rate)[-len(ETAS) :])


def _single(settings: Sequence[float]) -> float:
    return _MIDDLE if _MIDDLE in settings else settings[len(settings) // 2]


def _of(method: str, settings: Sequence[float]) -> Callable[[Score], bool]:
    return lambda score: score.method == method and score.setting in settings


def _row(label: str, pairs: Mapping[str, Scores], wanted: Callable[[Score], bool], single: float) -> Row:
    tries = _tries(pairs, wanted)
    picked = [max(each, key=lambda score: (score.success, score.answer_psnr)) for each in tries]
    floors = {floor: bootstrap(_successes(tries, floor)) for floor in FLOORS}
    return Row(
        method=label,
        tries=len(tries[0]),
        best=bootstrap(_successes(tries)),
        one=bootstrap([float(next(s for s in each if s.setting == single).success) for each in tries]),
        clip=bootstrap([float(max(each, key=lambda score: score.clip).success) for each in tries]),
        floors=floors,
        answer_psnr=bootstrap([score.answer_psnr for score in picked]),
        answer_ssim=bootstrap([score.answer_ssim for score in picked]),
        kept_psnr=_kept([[score] for score in picked]),
    )


def by_field(pairs: Mapping[str, Scores], fields: Mapping[str, str]) -> str:
    """Success with the best try for each kind of edit apart, over pooled settings: of all tries, and above each floor.

    Args:
        pairs: the scores of every pair.
        fields: what each changes; see `read_fields`.
    """
    head = ("changed", "method", "best, %", *(f"at {floor:g} dB" for floor in FLOORS))
    lines = []
    settings = _settings(pairs)
    # SDEdit's strengths are chosen over all pairs, as in the other tables.
    pooled = {name: _pooled(pairs, name, settings[name]) for name in ("imagic", *_RIVALS) if name in settings}
    for field in (each for each in FIELDS if each in fields.values()):
        some = {name: scores for name, scores in pairs.items() if fields[name] == field}
        for method, chosen in pooled.items():
            tries = _tries(some, _of(method, chosen))
            shares = [bootstrap(_successes(tries, floor)).told(".0f", 100) for floor in (-math.inf, *FLOORS)]
            lines.append((f"{field}, {plural(len(some), 'pair')}", method, *shares))
    return "\n".join(table.markdown(head, lines)) + "\n"


def _successes(tries: Sequence[Scores], floor: float = -math.inf) -> list[float]:
    # NaN, where nothing has to be kept, is above every floor.
    return [float(any(score.success and not score.kept_psnr < floor for score in each)) for each in tries]


def leads(pairs: Mapping[str, Scores]) -> dict[str, list[Interval]]:
    """Imagic's success with its best try minus that of every other way to edit, pair by pair, in points of 100.

    Returns:
        By method, over its pooled settings: among all tries, then among those of each of `FLOORS`.
    """
    settings = _settings(pairs)
    levels = (-math.inf, *FLOORS)

    def successes(method: str) -> list[list[float]]:
        tries = _tries(pairs, _of(method, _pooled(pairs, method, settings[method])))
        return [_successes(tries, floor) for floor in levels]

    own = successes("imagic")
    return {
        method: [
            bootstrap([100 * (a - b) for a, b in zip(mine, theirs, strict=True)])
            for mine, theirs in zip(own, successes(method), strict=True)
        ]
        for method in _RIVALS
        if method in settings
    }


def _kept(tries: Sequence[Scores]) -> Interval:
    # Of each pair's mean. Where the edit changes every pixel, there is nothing to keep.
    means = [sum(each.kept_psnr for each in scores) / len(scores) for scores in tries]
    told = [mean for mean in means if not math.isnan(mean)]
    return bootstrap(told) if told else Interval(math.nan, math.nan, math.nan, 0)


def curve(pairs: Mapping[str, Scores]) -> str:
    """An SVG of text alignment and fidelity against eta, as the paper's figure 9: means and 95 % bands over pairs."""
    points: dict[str, dict[str, Interval]] = {KEPT: {}, ALIGNED: {}}
    for eta in CURVE:
        tries = _tries(pairs, _of("imagic", [float(eta)]))
        points[KEPT][eta] = _kept(tries)
        points[ALIGNED][eta] = bootstrap([sum(score.clip for score in each) / len(each) for each in tries])
    return band(points, KEPT, ALIGNED, f"{len(pairs)} drawn scenes")


def trade(pairs: Mapping[str, Scores]) -> str:
    """An SVG of success against fidelity: a line for each method, a point of it for each eta, strength or guidance.

    Success is that of a single try, so that no method gains by the number of its tries.
    """
    lines: dict[str, dict[str, tuple[Interval, Interval]]] = {}
    for method in _TRADING:
        settings = sorted({score.setting for scores in pairs.values() for score in scores if score.method == method})
        if settings:
            lines[method] = {}
        for setting in settings:
            tries = _tries(pairs, _of(method, [setting]))
            right = bootstrap([100 * sum(score.success for score in each) / len(each) for each in tries])
            lines[method][f"{setting:g}"] = (_kept(tries), right)
    return matched(lines, KEPT, "success of one try, %", f"{len(pairs)} drawn scenes")


def _tries(pairs: Mapping[str, Scores], wanted: Callable[[Score], bool]) -> list[list[Score]]:
    return [[score for score in scores if wanted(score)] for scores in pairs.values()]


def cells(row: Row) -> Iterator[str]:
    """The row as a table shows it; see `HEAD`."""
    yield row.method
    yield str(row.tries)
    for share in (row.best, row.one, row.clip, *row.floors.values()):
        yield share.told(".0f", 100)
    for number in (row.answer_psnr, row.kept_psnr):
        yield number.told(".1f")
    yield f"{row.answer_ssim.mean:.3f}"


HEAD = (
    "method",
    "tries",
    "best, %",
    "one, %",
    "CLIP's pick, %",
    *(f"best at {floor:g} dB, %" for floor in FLOORS),
    "to the answer, dB",
    "kept, dB",
    "SSIM",
)


def markdown(pairs: Mapping[str, Scores]) -> str:
    """The table of all rows, with how many pairs they are over, and by how much Imagic leads."""
    lines = [f"{plural(len(pairs), 'pair')}.", "", *table.markdown(HEAD, map(cells, rows(pairs)))]
    head = ("Imagic minus", "best, points", *(f"at {floor:g} dB" for floor in FLOORS))
    told = ((method, *(each.told("+.0f") for each in found)) for method, found in leads(pairs).items())
    return "\n".join([*lines, "", *table.markdown(head, told)]) + "\n"
