"""Figures over many edits: of a list of photographs, and of drawn scenes whose right answer is known."""

from __future__ import annotations

from pathlib import Path

from imagic_cli import files
from imagic_cli.cli import checks
from imagic_cli.cli import options as o
from imagic_cli.cli.report import Report
from imagic_cli.config import ModelFlags
from imagic_cli.names import plural


def evaluate(
    pairs: o.PairsArgument,
    output: o.EvaluateOutOption = Path("runs/evaluate"),
    eta: o.SweepEtaOption = "0:1:0.1",
    seed: o.SweepSeedOption = "0:8",
    shard: o.ShardOption = "1/1",
    limit: o.LimitOption = None,
    model: o.ModelOption = None,
    preset: o.PresetOption = None,
    revision: o.RevisionOption = None,
    variant: o.VariantOption = None,
    config: o.ConfigOption = None,
    size: o.SizeOption = None,
    fit: o.FitOption = None,
    optimize_steps: o.OptimizeStepsOption = None,
    finetune_steps: o.FinetuneStepsOption = None,
    steps: o.SampleStepsOption = None,
    dtype: o.DtypeOption = None,
    clip: o.ClipOption = None,
    beside: o.BesideOption = None,
    discard_weights: o.DiscardOption = False,
    batch_size: o.BatchSizeOption = None,
    device: o.DeviceOption = "auto",
    gradient_checkpointing: o.CheckpointingOption = False,
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Edit a list of photographs, measure every image, and average over them with 95 % intervals."""
    items = checks.grid(eta, seed)
    others = checks.others(beside or [])
    recipe = (
        {"size": size, "fit": fit},
        {"steps": optimize_steps, "dtype": dtype},
        {"steps": finetune_steps, "dtype": dtype},
        {"steps": steps, "dtype": dtype},
    )
    how = checks.how(device=device, batch_size=batch_size, gradient_checkpointing=gradient_checkpointing)
    checks.check_recipe(*recipe)
    checks.check_folder(output)
    with Report(quiet, json) as report:
        from imagic_cli.manifest import read_pairs, results

        listed = read_pairs(pairs)[:limit]
        answers = {name: results(folder, listed) for name, folder in others.items()}
        mine = checks.sharded(len(listed), shard)
        from imagic_cli.evaluation.beside import measured
        from imagic_cli.evaluation.evaluate import Evaluation
        from imagic_cli.evaluation.silent import Recipe
        from imagic_cli.evaluation.summary import check_failures, entries, summary
        from imagic_cli.pages.evaluation_page import columns, methods_columns, methods_rows, rows, write

        named = ModelFlags(model, preset, revision, variant, config)
        every = entries(listed)
        evaluation = Evaluation(output, named, Recipe(*recipe), items, clip, discard_weights, how, report)
        evaluation.run([every[number] for number in mine])
        found = summary(output, every, items)
        theirs = measured(output, found, dict(zip(every, listed, strict=True)), answers, evaluation.aligner)
        pages = write(output, found, theirs)
        report.table(
            f"{plural(len(found.results), 'edit')}, {len(found.failures)} failed: {output}", columns(found), rows(found)
        )
        if compared := methods_rows(theirs):
            title = f"the {plural(theirs.shared, 'edit')} that every method has a picture of"
            report.table(title, methods_columns(found), compared)
        for page in pages:
            report.result(page, page.stem)
        check_failures(output, found, [every[number] for number in mine])


def bench(
    suite: o.SuiteArgument,
    output: o.BenchOutOption = Path("runs/bench"),
    pairs: o.PairsOption = 150,
    full: o.FullOption = False,
    shard: o.ShardOption = "1/1",
    model: o.ModelOption = None,
    preset: o.PresetOption = None,
    optimize_steps: o.OptimizeStepsOption = None,
    optimize_lr: o.OptimizeRateOption = None,
    finetune_steps: o.FinetuneStepsOption = None,
    finetune_lr: o.FinetuneRateOption = None,
    steps: o.SampleStepsOption = None,
    guidance: o.GuidanceOption = None,
    batch_size: o.BatchSizeOption = 8,
    device: o.DeviceOption = "auto",
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Edit drawn scenes whose right answer is known, by Imagic, its ablations, SDEdit and DDIB, and judge them."""
    first = {"steps": optimize_steps, "learning_rate": optimize_lr}
    then = {"steps": finetune_steps, "learning_rate": finetune_lr}
    last = {"steps": steps, "guidance": guidance}
    how = checks.how(device=device, batch_size=batch_size)
    numbers = checks.sharded(pairs, shard)
    checks.check_recipe({}, first, then, last)
    checks.check_folder(output)
    with Report(quiet, json) as report:
        from imagic_cli.evaluation.silent import Recipe
        from imagic_cli.sketchbook import bench_summary as summary
        from imagic_cli.sketchbook.bench import Bench
        from imagic_cli.sketchbook.scenes import SIZE

        named = ModelFlags(model, preset)
        Bench(output, named, Recipe({"size": SIZE}, first, then, last), full, how, report).run(numbers)
        found = summary.read(output)
        tables = f"{summary.markdown(found)}\n{summary.by_field(found, summary.read_fields(output))}"
        written = {"summary.md": tables, "curve.svg": summary.curve(found), "trade.svg": summary.trade(found)}
        for name, made in written.items():
            files.commit_bytes(output / name, made.encode())
        pictures = output / "gallery.png"
        files.commit(pictures, lambda temporary: summary.gallery(output).save(temporary, format="PNG"))
        cells = [list(summary.cells(row)) for row in summary.rows(found)]
        report.table(f"{plural(len(found), 'pair')}, {output}", summary.HEAD, cells)
        for path in (*(output / name for name in written), pictures):
            report.result(path, path.stem)
