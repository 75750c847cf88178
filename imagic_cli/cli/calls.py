"""What several commands do: check what was typed before anything heavy is imported, then call the stages."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagic_cli import files
from imagic_cli.cli.report import Report
from imagic_cli.config import (
    AboveSettings,
    FinetuneSettings,
    How,
    ModelFlags,
    OptimizeSettings,
    PhotoSettings,
    SamplingSettings,
    override,
)
from imagic_cli.errors import Interrupted, UsageError
from imagic_cli.events import Sampled, Started
from imagic_cli.locate import can_be_named, remember
from imagic_cli.run import Run
from imagic_cli.sweep import Item, parse_etas, parse_seed_range, parse_seeds

if TYPE_CHECKING:
    from imagic_cli.backends.source import Model
    from imagic_cli.evaluation.alignment import ClipScore
    from imagic_cli.evaluation.rivals import Method
    from imagic_cli.evaluation.table import Table
    from imagic_cli.record import Record
    from imagic_cli.resolve import Edit

Flags = Mapping[str, Any]
EVERY_LEVEL = "all"


def how(**flags: object) -> How:
    """How to compute, from flags.

    Raises:
        UsageError: a value is out of range.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(flags.get("device", "auto"))):
        raise UsageError(f"no device '{flags['device']}'", "use --device auto, cpu, cuda, cuda:N or mps")
    return override(How(), flags)


def center(text: str | None) -> tuple[float, float] | None:
    """Two fractions from 'x,y'.

    Raises:
        UsageError: it is not that.
    """
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--center {text!r} is not two fractions", "such as --center 0.5,0.3") from None
    return x, y


def items(eta: str, first: int, count: int, output: Path | None) -> list[Item]:
    """Each eta with each seed.

    Raises:
        UsageError: they cannot be meant, or are several for one output file.
    """
    found = [(each, seed) for each in parse_etas(eta) for seed in parse_seeds(first, count)]
    if output is not None and len(found) > 1:
        raise UsageError(f"--output takes one image, these are {len(found)}", "they are in the run's images folder")
    if output is not None:
        check_output(output, name="--output")
    return found


def method(name: str | None, rank: int | None) -> dict[str, Any]:
    """Stage B's flags for what it trains.

    Raises:
        UsageError: a rank was typed without LoRA, where there is none.
    """
    if rank is not None and name != "lora":
        raise UsageError(f"--rank {rank} is of a LoRA", "add --method lora")
    return {"method": name, "rank": rank}


def new_edit(
    image: Path | None,
    text: str | None,
    run: Path | None,
    model: ModelFlags,
    photo: Flags,
    train: Flags,
    how: How,
    report: Report,
) -> Edit:
    """Resolve what stage A was told; see `imagic_cli.resolve.new_edit`."""
    override(PhotoSettings(), photo)
    override(OptimizeSettings(), train)
    if image is not None and not _some(text, "the text"):
        raise UsageError(
            "no text says what the edited picture shows", 'such as: imagic optimize img.png "a sitting dog"'
        )
    for name, value in vars(model).items():
        _some(value, f"--{name}")
    from imagic_cli import resolve

    return resolve.new_edit(image, text or "", run, model, photo, train, how, report)


def optimize(edit: Edit, how: How, force: bool, report: Report) -> None:
    """Stage A, and its run is the one last used, also when it is stopped."""
    from imagic_cli.stages.optimize import optimize as work

    with _remembered(edit.run):
        work(edit.run, edit.record, edit.image, edit.model, how, force, report)


def tuned_record(run: Run, level: str, flags: Flags, how: How) -> tuple[Record, Model, tuple[str, ...]]:
    """What stage B works from, with its flags in it, and which levels it is to work on.

    Raises:
        UsageError: the run's model has no such level, or a value is out of range.
    """
    recorded = run.read_record()
    override(AboveSettings(), flags)
    levels = recorded.levels() if level == EVERY_LEVEL else (level,)
    if not set(levels) <= set(recorded.levels()):
        known = ", ".join((*recorded.levels(), EVERY_LEVEL))
        raise UsageError(f"--level {level} is none of this run's model", f"there are: {known}")
    from imagic_cli.resolve import finetune_record, recorded_model

    record = finetune_record(recorded, levels, flags, how)
    return record, recorded_model(run, record, how), levels


def finetune(
    run: Run, record: Record, model: Model, levels: Sequence[str], how: How, force: bool, report: Report
) -> None:
    """Stage B."""
    from imagic_cli.stages.finetune import finetune as work

    with _remembered(run):
        work(run, record, model, levels, how, force, report)


def sampling(run: Run, flags: Flags, how: How) -> tuple[Record, Model, SamplingSettings]:
    """What stage C works from."""
    record = run.read_record()
    override(SamplingSettings(), flags)
    if not _some(flags.get("prompt"), "--prompt") and flags.get("prompt") is not None:
        raise UsageError("--prompt is empty", "leave it out for the run's own text")
    _some(flags.get("negative"), "--negative")
    from imagic_cli.resolve import recorded_model, sampling_settings

    settings = sampling_settings(record, flags, how)
    return record, recorded_model(run, record, how), settings


def generate(
    run: Run,
    record: Record,
    model: Model,
    sampling: SamplingSettings,
    items: Sequence[Item],
    how: How,
    force: bool,
    output: Path | None,
    report: Report,
) -> None:
    """Stage C; prints the image, or the contact sheet of several."""
    from imagic_cli.stages.generate import generate as work

    with _remembered(run):
        pictures = work(run, record, model, sampling, items, how, force, report)
    if output is not None:
        files.commit_bytes(output, pictures.path(items[0]).read_bytes())
    for item in items:
        report.result(pictures.path(item), "image")
    if len(items) > 1:
        report.result(pictures.sheet_file, "sheet")


def export(run: Run, file: Path, force: bool, report: Report) -> None:
    """Write the run's LoRA for other programs; prints where."""
    check_output(file, ".safetensors", "--lora")
    if file.resolve().is_relative_to(run.path.resolve()):
        raise UsageError(f"--lora {file} is inside the run", "name a file elsewhere")
    from imagic_cli.export import export_lora

    for path in export_lora(run, file, force):
        report.result(path, "lora")


def grid(eta: str, seed: str) -> list[Item]:
    """Each eta with each seed of a range.

    Raises:
        UsageError: they cannot be meant.
    """
    seeds = parse_seed_range(seed)
    return [(each, one) for each in parse_etas(eta) for one in seeds]


def sweep(
    run: Run,
    record: Record,
    model: Model,
    sampling: SamplingSettings,
    items: Sequence[Item],
    clip: str | None,
    how: How,
    force: bool,
    report: Report,
) -> None:
    """Stage C over a grid, then what the images are worth; prints the table, the sheet and the plot."""
    from imagic_cli.evaluation.plots import tradeoff
    from imagic_cli.evaluation.scoring import aligner, suggested
    from imagic_cli.stages.generate import generate as work

    judge = aligner(clip, record.model.source, report)
    with _remembered(run):
        pictures = work(run, record, model, sampling, items, how, force, report)
    text = sampling.prompt or record.text
    table = _measured(run, {item: pictures.path(item) for item in items}, text, judge, report)
    table.save(pictures.folder / "metrics.csv")
    files.commit_bytes(pictures.folder / "tradeoff.svg", tradeoff(table, text).encode())
    if first := suggested(table):
        report.say(f"look first at eta {', '.join(first)}; figures cannot choose for you: see the sheet")
    report.result(pictures.folder / "metrics.csv", "metrics")
    report.result(pictures.folder / "tradeoff.svg", "plot")
    if len(items) > 1:
        report.result(pictures.sheet_file, "sheet")


def counts(text: str) -> list[int]:
    """Numbers of steps from '10,100,1000'.

    Raises:
        UsageError: it is not that.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 8 for part in parts):
        raise UsageError(f"--steps {text!r} is no list of steps", "such as 10,100,1000")
    return sorted({int(part) for part in parts})


def ablate(
    stage: str,
    run: Run,
    record: Record,
    model: Model,
    items: Sequence[Item],
    steps: Sequence[int],
    how: How,
    report: Report,
) -> None:
    """One ablation of the run; prints where its figure is."""
    from imagic_cli.evaluation.ablations import lengths, without_finetuning

    with _remembered(run):
        if stage == "finetune":
            etas = [eta for eta, _seed in items]
            path = without_finetuning(run, record, model, etas, items[0][1], how, report)
        else:
            path = lengths(run, record, model, steps, items, how, report)
    report.result(path, "figure")


def rival_items(method: Method, strength: str, seed: str, source: str | None, guidance: str) -> list[Item]:
    """The tries of a baseline: strengths by seeds, or guidances of what has no seed.

    Raises:
        UsageError: they cannot be meant, or DDIB has no source text.
    """
    if method == "ddib":
        if not _some(source, "--source"):
            raise UsageError("DDIB needs to know what the photograph shows", 'such as --source "a bird on a branch"')
        return [(each, 0) for each in parse_etas(guidance, "--guidance")]
    seeds = parse_seed_range(seed)
    return [(each, one) for each in parse_etas(strength, "--strength") for one in seeds]


def baseline(
    run: Run,
    record: Record,
    model: Model,
    method: Method,
    source: str,
    sampling: SamplingSettings,
    items: Sequence[Item],
    clip: str | None,
    how: How,
    report: Report,
) -> None:
    """Another method on the run's photograph; prints its figures' file and its pictures."""
    from imagic_cli.evaluation.rivals import Rival
    from imagic_cli.evaluation.scoring import aligner

    judge = aligner(clip, record.model.source, report)
    rival = Rival(run, record, model, method, source, sampling, how, report)
    rival.make(items)
    table = _measured(run, {item: rival.path(item) for item in items}, record.text, judge, report)
    metrics = rival.path(items[0]).parent / "metrics.csv"
    table.save(metrics)
    for item in items:
        report.result(rival.path(item), "image")
    report.result(metrics, "metrics")


def _measured(run: Run, images: Mapping[Item, Path], text: str, judge: ClipScore | None, report: Report) -> Table:
    from imagic_cli.evaluation.scoring import score

    counted = itertools.count(1)
    report(Started("measure", 0, len(images)))

    def advance() -> None:
        report(Sampled("measure", next(counted) / len(images)))

    return score(images, run.read_image(), text, judge, advance)


def sharded(count: int, shard: str) -> list[int]:
    """The numbers below `count` that are the I-th of N parts, for a `shard` of "I/N".

    Raises:
        UsageError: it is not that.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    part, parts = (int(number) for number in found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise UsageError(f"--shard {shard!r} is not I/N with I from 1 to N", "such as --shard 2/8")
    return list(range(count))[part - 1 :: parts]


def bench(
    output: Path, numbers: list[int], model: ModelFlags, recipe: tuple[Flags, Flags, Flags], how: How, report: Report
) -> None:
    """Edit and judge what is missing, then tell what all results there say together."""
    for settings, flags in zip((OptimizeSettings(), FinetuneSettings(), SamplingSettings()), recipe, strict=True):
        override(settings, flags)
    if not can_be_named(output) or (output.exists() and not output.is_dir()):
        raise UsageError(f"--out {output} cannot be a folder")
    from imagic_cli.evaluation.silent import Recipe
    from imagic_cli.sketchbook.bench import Bench
    from imagic_cli.sketchbook.bench_summary import HEAD, cells, markdown, read, rows
    from imagic_cli.sketchbook.scenes import SIZE

    Bench(output, model, Recipe({"size": SIZE}, *recipe), how, report).run(numbers)
    pairs = read(output)
    files.commit_bytes(output / "summary.md", markdown(pairs).encode())
    report.table(f"{len(pairs)} pairs, {output}", HEAD, [list(cells(row)) for row in rows(pairs)])
    report.result(output / "summary.md", "summary")


def evaluate(
    path: Path,
    output: Path,
    shard: str,
    limit: int | None,
    model: ModelFlags,
    recipe: tuple[Flags, Flags, Flags, Flags],
    items: Sequence[Item],
    clip: str | None,
    discard: bool,
    how: How,
    report: Report,
) -> None:
    """Make and measure a list of edits; prints the summary, the curve and the index of all that are done."""
    checked = (PhotoSettings(), OptimizeSettings(), FinetuneSettings(), SamplingSettings())
    for settings, flags in zip(checked, recipe, strict=True):
        override(settings, flags)
    if not can_be_named(output) or (output.exists() and not output.is_dir()):
        raise UsageError(f"--out {output} cannot be a folder")
    from imagic_cli.manifest import read_pairs

    pairs = read_pairs(path)[:limit]
    mine = sharded(len(pairs), shard)
    from imagic_cli.evaluation.evaluate import Evaluation, entries, summary
    from imagic_cli.evaluation.silent import Recipe
    from imagic_cli.pages.evaluation_page import columns, rows, write

    every = entries(pairs)
    evaluation = Evaluation(output, model, Recipe(*recipe), items, clip, discard, how, report)
    evaluation.run([every[number] for number in mine])
    found = summary(output)
    pages = write(output, found)
    report.table(f"{len(found.results)} edits, {len(found.failures)} failed: {output}", columns(found), rows(found))
    for page in pages:
        report.result(page, page.stem)


def report_page(run: Run, output: Path | None) -> Path:
    """Write the page of a run, `report.html` in it if not told otherwise; returns where it is.

    Raises:
        UsageError: it cannot be written there.
        ArtifactError: there is no run, or its photograph is damaged.
    """
    if output is not None:
        check_output(output, ".html")
    from imagic_cli.pages.run_page import page

    target = output or run.path / "report.html"
    files.commit_bytes(target, page(run, target).encode("utf-8", "replace"))
    return target


def check_output(output: Path, suffix: str = ".png", name: str = "the output") -> None:
    """Refuse before the work, not after it, a file that could not be written.

    Raises:
        UsageError: it has another ending, or cannot be a file there.
    """
    if output.suffix.lower() != suffix:
        raise UsageError(f"{name} {output} must end in {suffix}")
    if not can_be_named(output) or output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"{name} {output} cannot be a file", "name one in a folder that exists")


def scene(text: str, output: Path, seed: int) -> None:
    """Draw a scene and save it.

    Raises:
        UsageError: the words are not the grammar's, or the file cannot be written there.
    """
    check_output(output)
    from imagic_cli.sketchbook.scenes import Scene

    try:
        drawn = Scene.from_text(text, seed).draw()
    except ValueError as error:
        raise UsageError(str(error)) from error

    def save(temporary: Path) -> None:
        drawn.save(temporary, format="PNG")

    files.commit(output, save)


def planned(edit: Edit, finetune: Flags, generate: Flags, how: How) -> Edit:
    """See `imagic_cli.resolve.planned`."""
    from imagic_cli import resolve

    return resolve.planned(edit, finetune, generate, how)


def plan(
    run: Run,
    record: Record,
    model: Model,
    stages: list[str],
    images: int,
    how: How,
    report: Report,
    levels: Sequence[str] = (),
) -> None:
    """Tell what the stages would do and cost, and do nothing; without `levels` stage B trains all."""
    from imagic_cli.plan import costs
    from imagic_cli.precision import pick_device

    report.plan(run, record, costs(record, model, stages, images, pick_device(how.device), levels))


@contextlib.contextmanager
def _remembered(run: Run) -> Iterator[None]:
    # A stopped run is the one to go on with; a refused command has begun nothing.
    try:
        yield
    except Interrupted:
        if run.record_file.is_file():
            remember(run.path)
        raise
    remember(run.path)


def _some(text: str | None, name: str) -> bool:
    # Bytes that are no UTF-8 reach Python as lone surrogates, which no tokenizer takes.
    if text is not None and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError(f"{name} is not valid UTF-8")
    return bool(text and text.strip())
