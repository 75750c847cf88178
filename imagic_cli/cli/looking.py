"""Looking at a run: a grid of its images with their figures, and one page that shows all of it."""

from __future__ import annotations

from imagic_cli import files
from imagic_cli.cli import calls, checks
from imagic_cli.cli import options as o
from imagic_cli.cli.report import Report
from imagic_cli.events import Note
from imagic_cli.locate import existing_run


def sweep(
    run: o.RunArgument = None,
    eta: o.SweepEtaOption = "0:1:0.05",
    seed: o.SweepSeedOption = "0:8",
    clip: o.ClipOption = None,
    prompt: o.PromptOption = None,
    negative: o.NegativeOption = None,
    scheduler: o.SchedulerOption = None,
    steps: o.SampleStepsOption = None,
    guidance: o.GuidanceOption = None,
    pretrained: o.PretrainedOption = False,
    dtype: o.DtypeOption = None,
    batch_size: o.BatchSizeOption = None,
    device: o.DeviceOption = "auto",
    force: o.ForceOption = False,
    strict: o.StrictOption = False,
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Fill a grid of etas and seeds, measure every image, plot the trade-off, and name the etas to look at first."""
    items = checks.grid(eta, seed)
    flags = {"prompt": prompt, "negative": negative, "scheduler": scheduler, "steps": steps, "guidance": guidance}
    flags |= {"pretrained": pretrained or None, "dtype": dtype}
    how = checks.how(device=device, batch_size=batch_size, strict=strict)
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        record, found, sampling = calls.sampling(chosen, flags, how)
        from imagic_cli.evaluation.plots import tradeoff
        from imagic_cli.evaluation.scoring import aligner, score, suggested
        from imagic_cli.stages.generate import generate

        judge = aligner(clip, record.model.source, report)
        with calls.remembered(chosen):
            pictures = generate(chosen, record, found, sampling, items, how, force, report)
        text = sampling.prompt or record.text
        table = score({item: pictures.path(item) for item in items}, chosen.read_image(), text, judge, report)
        metrics, plot = pictures.folder / "metrics.csv", pictures.folder / "tradeoff.svg"
        table = table.joined(metrics, pictures.path)
        table.save(metrics)
        files.commit_bytes(plot, tradeoff(table, text).encode())
        if first := suggested(table):
            report(Note(f"look first at eta {', '.join(first)}; figures cannot choose for you: see the sheet"))
        report.result(metrics, "metrics")
        report.result(plot, "plot")
        if len(items) > 1:
            report.result(pictures.sheet_file, "sheet")


def report(
    run: o.RunArgument = None,
    output: o.PageOption = None,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """One page that shows a run: the input beside each image and how to make that again, figures, losses, settings."""
    with Report(False, json) as report:
        chosen = existing_run(run, report)
        if output is not None:
            checks.check_output(output, ".html")
        from imagic_cli.outputs import check_free
        from imagic_cli.pages.run_page import is_ours, page

        if output is not None:
            check_free(output, is_ours, hint="remove it first, or name another")

        target = output or chosen.path / "report.html"
        files.commit_bytes(target, page(chosen, target).encode("utf-8", "replace"))
        report.result(target, "page")
