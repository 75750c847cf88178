"""One run beside what else could have been done: other methods, and Imagic with less of a stage."""

from __future__ import annotations

from imagic_cli.cli import calls, checks
from imagic_cli.cli import options as o
from imagic_cli.cli.report import Report
from imagic_cli.locate import existing_run
from imagic_cli.signals import continued
from imagic_cli.sweep import check_strengths


def baseline(
    method: o.MethodArgument,
    run: o.RunArgument = None,
    strength: o.StrengthOption = None,
    seed: o.RivalSeedOption = None,
    source: o.SourceOption = None,
    guidance: o.GuidancesOption = None,
    scheduler: o.SchedulerOption = None,
    steps: o.SampleStepsOption = None,
    dtype: o.DtypeOption = None,
    clip: o.ClipOption = None,
    device: o.DeviceOption = "auto",
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Edit the run's photograph by SDEdit or DDIB with the same pretrained model, and measure the images."""
    items = checks.rival_items(method, strength, seed, source, guidance)
    flags = {"scheduler": scheduler, "steps": steps, "dtype": dtype}
    how = checks.how(device=device)
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        record, found, sampling = calls.sampling(chosen, flags, how)
        if method == "sdedit":
            check_strengths([float(each) for each, _seed in items], sampling.steps)
        from imagic_cli.evaluation.rivals import Rival
        from imagic_cli.evaluation.scoring import aligner, score

        judge = aligner(clip, record.model.source, report)
        rival = Rival(chosen, record, found, method, source or "", sampling, how, report)
        rival.make(items)
        paths = {item: rival.path(item) for item in items}
        metrics = rival.path(items[0]).parent / "metrics.csv"
        score(paths, chosen.read_image(), record.text, judge, report).joined(metrics, rival.path).save(metrics)
        for path in paths.values():
            report.result(path, "image")
        report.result(metrics, "metrics")


def ablate(
    stage: o.AblationArgument,
    run: o.RunArgument = None,
    eta: o.SweepEtaOption = "0:1:0.2",
    seed: o.FirstSeedOption = 0,
    lengths: o.LengthsOption = None,
    clip: o.ClipOption = None,
    batch_size: o.BatchSizeOption = None,
    device: o.DeviceOption = "auto",
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Ablations as figures: without and with stage B, stages A of other lengths, or a cascade's super-resolution."""
    items = checks.items(eta, seed, 1)
    counts = checks.lengths(stage, lengths, clip)
    how = checks.how(device=device, batch_size=batch_size)
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        record, found, _sampling = calls.sampling(chosen, {}, how)
        from imagic_cli.evaluation import ablations

        with calls.remembered(chosen), continued():
            if stage == "finetune":
                etas = [eta for eta, _seed in items]
                paths = [ablations.without_finetuning(chosen, record, found, etas, seed, how, report)]
            elif stage == "optimize":
                paths = [ablations.lengths(chosen, record, found, counts, items, how, report)]
            else:
                from imagic_cli.evaluation.scoring import aligner

                judge = aligner(clip, record.model.source, report)
                paths = ablations.super_resolution(chosen, record, found, items, judge, how, report)
        for path in paths:
            report.result(path, "figure" if path.suffix == ".png" else "metrics")
