"""The commands: each unpacks its flags and calls plain functions."""

from __future__ import annotations

from pathlib import Path

import typer

from imagic_cli import __version__, inspection
from imagic_cli.cli import calls, study
from imagic_cli.cli import options as o
from imagic_cli.cli.report import Report
from imagic_cli.config import ModelFlags
from imagic_cli.errors import ArtifactError
from imagic_cli.locate import existing_run

app = typer.Typer(
    name="imagic",
    help="Edit one photograph from one sentence (Imagic, Kawar et al., CVPR 2023).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(study.app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"imagic {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it.")) -> None:
    pass


@app.command()
def optimize(
    image: o.ImageArgument = None,
    text: o.TextArgument = None,
    run: o.RunOption = None,
    model: o.ModelOption = None,
    preset: o.PresetOption = None,
    revision: o.RevisionOption = None,
    variant: o.VariantOption = None,
    config: o.ConfigOption = None,
    encoder: o.EncoderOption = None,
    size: o.SizeOption = None,
    fit: o.FitOption = None,
    center: o.CenterOption = None,
    steps: o.StepsOption = None,
    lr: o.RateOption = None,
    batch: o.BatchOption = None,
    seed: o.SeedOption = None,
    optimizer: o.OptimizerOption = None,
    dtype: o.DtypeOption = None,
    device: o.DeviceOption = "auto",
    gradient_checkpointing: o.CheckpointingOption = False,
    checkpoint_every: o.CheckpointEveryOption = None,
    probe_every: o.ProbeEveryOption = 100,
    force: o.ForceOption = False,
    strict: o.StrictOption = False,
    dry_run: o.DryRunOption = False,
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Stage A: find the text embedding that stands for the photograph. Makes a run directory and prints it."""
    flags = {"steps": steps, "learning_rate": lr, "batch": batch, "seed": seed, "optimizer": optimizer, "dtype": dtype}
    photo = {"size": size, "fit": fit, "center": calls.center(center)}
    how = calls.how(
        device=device,
        gradient_checkpointing=gradient_checkpointing,
        checkpoint_every=checkpoint_every,
        probe_every=probe_every,
        strict=strict,
    )
    with Report(quiet, json) as report:
        named = ModelFlags(model, preset, revision, variant, config, encoder)
        edit = calls.new_edit(image, text, run, named, photo, flags, how, report)
        if dry_run:
            calls.plan(edit.run, edit.record, edit.model, ["optimize"], 0, how, report)
            return
        calls.optimize(edit, how, force, report)
        report.result(edit.run.path, "run")


@app.command()
def finetune(
    run: o.RunOption = None,
    level: o.LevelOption = calls.EVERY_LEVEL,
    steps: o.StepsOption = None,
    lr: o.RateOption = None,
    batch: o.BatchOption = None,
    seed: o.SeedOption = None,
    optimizer: o.OptimizerOption = None,
    dtype: o.DtypeOption = None,
    delta_dtype: o.DeltaOption = None,
    method: o.MethodOption = None,
    rank: o.RankOption = None,
    sr_condition: o.ConditionOption = None,
    device: o.DeviceOption = "auto",
    gradient_checkpointing: o.CheckpointingOption = False,
    checkpoint_every: o.CheckpointEveryOption = None,
    probe_every: o.ProbeEveryOption = 100,
    force: o.ForceOption = False,
    strict: o.StrictOption = False,
    dry_run: o.DryRunOption = False,
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Stage B: fine-tune the denoiser so that this embedding gives the photograph back."""
    flags = {"steps": steps, "learning_rate": lr, "batch": batch, "seed": seed, "optimizer": optimizer, "dtype": dtype}
    tuned = calls.method(method, rank) | {"delta_dtype": delta_dtype, "condition": sr_condition}
    how = calls.how(
        device=device,
        gradient_checkpointing=gradient_checkpointing,
        checkpoint_every=checkpoint_every,
        probe_every=probe_every,
        strict=strict,
    )
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        record, found, levels = calls.tuned_record(chosen, level, flags | tuned, how)
        if dry_run:
            calls.plan(chosen, record, found, ["finetune"], 0, how, report, levels)
            return
        calls.finetune(chosen, record, found, levels, how, force, report)
        report.result(chosen.path, "run")


@app.command()
def generate(
    run: o.RunOption = None,
    eta: o.EtaOption = "0.7",
    seed: o.FirstSeedOption = 0,
    seeds: o.SeedsOption = 1,
    prompt: o.PromptOption = None,
    negative: o.NegativeOption = None,
    scheduler: o.SchedulerOption = None,
    steps: o.SampleStepsOption = None,
    guidance: o.GuidanceOption = None,
    size: o.StopOption = None,
    pretrained: o.PretrainedOption = False,
    dtype: o.DtypeOption = None,
    batch_size: o.BatchSizeOption = None,
    output: o.OutOption = None,
    device: o.DeviceOption = "auto",
    force: o.ForceOption = False,
    strict: o.StrictOption = False,
    dry_run: o.DryRunOption = False,
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Stage C: images between the photograph (eta 0) and the text (eta 1). Prints where they are."""
    items = calls.items(eta, seed, seeds, output)
    flags = {"prompt": prompt, "negative": negative, "scheduler": scheduler, "steps": steps, "guidance": guidance}
    flags |= {"pretrained": pretrained or None, "dtype": dtype, "size": size}
    how = calls.how(device=device, batch_size=batch_size, strict=strict)
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        record, found, sampling = calls.sampling(chosen, flags, how)
        if dry_run:
            record = record.model_copy(update={"generate": sampling})
            calls.plan(chosen, record, found, ["generate"], len(items), how, report)
            return
        calls.generate(chosen, record, found, sampling, items, how, force, output, report)


@app.command()
def edit(
    image: o.ImageArgument = None,
    text: o.TextArgument = None,
    run: o.RunOption = None,
    eta: o.EtaOption = "0.7",
    seed: o.FirstSeedOption = 0,
    seeds: o.SeedsOption = 1,
    model: o.ModelOption = None,
    preset: o.PresetOption = None,
    revision: o.RevisionOption = None,
    variant: o.VariantOption = None,
    config: o.ConfigOption = None,
    encoder: o.EncoderOption = None,
    size: o.SizeOption = None,
    fit: o.FitOption = None,
    center: o.CenterOption = None,
    optimize_steps: o.OptimizeStepsOption = None,
    finetune_steps: o.FinetuneStepsOption = None,
    steps: o.SampleStepsOption = None,
    optimizer: o.OptimizerOption = None,
    method: o.MethodOption = None,
    rank: o.RankOption = None,
    dtype: o.DtypeOption = None,
    batch_size: o.BatchSizeOption = None,
    output: o.OutOption = None,
    device: o.DeviceOption = "auto",
    gradient_checkpointing: o.CheckpointingOption = False,
    force: o.ForceOption = False,
    strict: o.StrictOption = False,
    dry_run: o.DryRunOption = False,
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """All three stages with the preset's numbers; what is done already is not done again."""
    items = calls.items(eta, seed, seeds, output)
    tuned = calls.method(method, rank)
    photo = {"size": size, "fit": fit, "center": calls.center(center)}
    how = calls.how(device=device, batch_size=batch_size, gradient_checkpointing=gradient_checkpointing, strict=strict)
    with Report(quiet, json) as report:
        named = ModelFlags(model, preset, revision, variant, config, encoder)
        first = {"dtype": dtype, "steps": optimize_steps, "optimizer": optimizer}
        then = {"dtype": dtype, "steps": finetune_steps, "optimizer": optimizer, **tuned}
        last = {"dtype": dtype, "steps": steps}
        ready = calls.new_edit(image, text, run, named, photo, first, how, report)
        ready = calls.planned(ready, then, last, how)
        if dry_run:
            calls.plan(
                ready.run, ready.record, ready.model, ["optimize", "finetune", "generate"], len(items), how, report
            )
            return
        calls.optimize(ready, how, force, report)
        record, found, levels = calls.tuned_record(ready.run, calls.EVERY_LEVEL, then, how)
        calls.finetune(ready.run, record, found, levels, how, force, report)
        record, found, sampling = calls.sampling(ready.run, last, how)
        calls.generate(ready.run, record, found, sampling, items, how, force, output, report)


@app.command()
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
    items = calls.grid(eta, seed)
    flags = {"prompt": prompt, "negative": negative, "scheduler": scheduler, "steps": steps, "guidance": guidance}
    flags |= {"pretrained": pretrained or None, "dtype": dtype}
    how = calls.how(device=device, batch_size=batch_size, strict=strict)
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        record, found, sampling = calls.sampling(chosen, flags, how)
        calls.sweep(chosen, record, found, sampling, items, clip, how, force, report)


@app.command()
def baseline(
    method: o.MethodArgument,
    run: o.RunArgument = None,
    strength: o.StrengthOption = "0.4:0.8:0.1",
    seed: o.SweepSeedOption = "0:8",
    source: o.SourceOption = None,
    guidance: o.GuidancesOption = "1,3,5,7.5",
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
    items = calls.rival_items(method, strength, seed, source, guidance)
    flags = {"scheduler": scheduler, "steps": steps, "dtype": dtype}
    how = calls.how(device=device)
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        record, found, sampling = calls.sampling(chosen, flags, how)
        calls.baseline(chosen, record, found, method, source or "", sampling, items, clip, how, report)


@app.command()
def ablate(
    stage: o.AblationArgument,
    run: o.RunArgument = None,
    eta: o.SweepEtaOption = "0:1:0.2",
    seed: o.FirstSeedOption = 0,
    lengths: o.LengthsOption = "10,100,1000",
    batch_size: o.BatchSizeOption = None,
    device: o.DeviceOption = "auto",
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """The paper's ablations as figures: without stage B above with it, or after stages A of other lengths."""
    items = calls.items(eta, seed, 1, None)
    counts = calls.counts(lengths)
    how = calls.how(device=device, batch_size=batch_size)
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        record, found, _sampling = calls.sampling(chosen, {}, how)
        calls.ablate(stage, chosen, record, found, items, counts, how, report)


@app.command()
def export(
    lora: o.LoraOption,
    run: o.RunArgument = None,
    force: o.ForceOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Write what finetune --method lora trained as a .safetensors file that diffusers and other programs load."""
    with Report(False, json) as report:
        calls.export(existing_run(run, report), lora, force, report)


@app.command()
def report(
    run: o.RunArgument = None,
    output: o.PageOption = None,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """One page that shows a run: the input beside each image and how to make that again, figures, losses, settings."""
    with Report(False, json) as report:
        report.result(calls.report_page(existing_run(run, report), output), "page")


@app.command()
def status(run: o.RunArgument = None, json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """Each stage: done, stale and why, resumable, or missing; and what to type next."""
    with Report(False, json) as report:
        chosen = existing_run(run, report)
        found = inspection.states(chosen)
        report.states(chosen, chosen.read_record(), found, inspection.suggestion(found, chosen))


@app.command()
def check(run: o.RunArgument = None, json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """Verify every file of a run; exit code 4 names the ones that are not as they were written."""
    with Report(False, json) as report:
        chosen = existing_run(run, report)
        found = inspection.problems(chosen)
        if found:
            raise ArtifactError(" | ".join(found))
        report.say(f"{chosen.path}: every file is as it was written")


@app.command()
def clean(run: o.RunArgument = None, json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """Remove what can be made again: progress, cached texts, and leftovers of killed processes."""
    with Report(False, json) as report:
        for path in inspection.clean(existing_run(run, report)):
            report.result(path, "removed")


@app.command()
def scene(
    text: o.SceneArgument,
    output: o.SceneFileArgument,
    seed: o.SceneSeedOption = 0,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Draw an input picture for the demo model, such as "a red bird on grass"; the seed decides what is not said."""
    with Report(False, json) as report:
        calls.scene(text, output, seed)
        report.result(output, "image")


@app.command()
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
    discard_weights: o.DiscardOption = False,
    batch_size: o.BatchSizeOption = None,
    device: o.DeviceOption = "auto",
    gradient_checkpointing: o.CheckpointingOption = False,
    quiet: o.QuietOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Edit a list of photographs, measure every image, and average over them with 95 % intervals."""
    items = calls.grid(eta, seed)
    recipe = (
        {"size": size, "fit": fit},
        {"steps": optimize_steps, "dtype": dtype},
        {"steps": finetune_steps, "dtype": dtype},
        {"steps": steps, "dtype": dtype},
    )
    how = calls.how(device=device, batch_size=batch_size, gradient_checkpointing=gradient_checkpointing)
    with Report(quiet, json) as report:
        named = ModelFlags(model, preset, revision, variant, config)
        calls.evaluate(pairs, output, shard, limit, named, recipe, items, clip, discard_weights, how, report)


@app.command()
def bench(
    suite: o.SuiteArgument,
    output: o.BenchOutOption = Path("runs/bench"),
    pairs: o.PairsOption = 150,
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
    how = calls.how(device=device, batch_size=batch_size)
    with Report(quiet, json) as report:
        named = ModelFlags(model, preset)
        calls.bench(output, calls.sharded(pairs, shard), named, (first, then, last), how, report)


@app.command()
def doctor(json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """What this machine offers, what on it is known to go wrong, and what to do about it."""
    from imagic_cli.doctor import findings

    with Report(False, json) as report:
        report.findings(findings())
