"""The stages: each command unpacks its flags and calls plain functions."""

from __future__ import annotations

import contextlib

from imagic_cli.cli import calls, checks
from imagic_cli.cli import options as o
from imagic_cli.cli.report import Report
from imagic_cli.config import ModelFlags
from imagic_cli.locate import existing_run
from imagic_cli.outputs import check_copy, check_no_photograph
from imagic_cli.signals import continued


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
    photo = {"size": size, "fit": fit, "center": checks.center(center)}
    how = checks.how(
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
    tuned = checks.method(method, rank) | {"delta_dtype": delta_dtype, "condition": sr_condition}
    how = checks.how(
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
    items = checks.items(eta, seed, seeds, output)
    flags = {"prompt": prompt, "negative": negative, "scheduler": scheduler, "steps": steps, "guidance": guidance}
    flags |= {"pretrained": pretrained or None, "dtype": dtype, "size": size}
    how = checks.how(device=device, batch_size=batch_size, strict=strict)
    with Report(quiet, json) as report:
        chosen = existing_run(run, report)
        if output is not None:
            check_copy(output, chosen.path, None, force)
        record, found, sampling = calls.sampling(chosen, flags, how)
        if output is not None:
            check_no_photograph(output, record, found)
        if dry_run:
            record = record.model_copy(update={"generate": sampling})
            calls.plan(chosen, record, found, ["generate"], len(items), how, report)
            return
        calls.generate(chosen, record, found, sampling, items, how, force, output, report)


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
    items = checks.items(eta, seed, seeds, output)
    if output is not None:
        check_copy(output, run, image, force)
    tuned = checks.method(method, rank)
    photo = {"size": size, "fit": fit, "center": checks.center(center)}
    how = checks.how(device=device, batch_size=batch_size, gradient_checkpointing=gradient_checkpointing, strict=strict)
    first = {"dtype": dtype, "steps": optimize_steps, "optimizer": optimizer}
    then = {"dtype": dtype, "steps": finetune_steps, "optimizer": optimizer, **tuned}
    last = {"dtype": dtype, "steps": steps}
    checks.check_recipe(photo, first, then, last)
    with Report(quiet, json) as report:
        named = ModelFlags(model, preset, revision, variant, config, encoder)
        ready = calls.new_edit(image, text, run, named, photo, first, how, report)
        if output is not None:
            check_copy(output, ready.run.path, image, force)
            check_no_photograph(output, ready.record, ready.model)
        ready = calls.planned(ready, first, then, last, how, report)
        if dry_run:
            calls.plan(
                ready.run, ready.record, ready.model, ["optimize", "finetune", "generate"], len(items), how, report
            )
            return
        # With --force the same command would begin anew.
        with contextlib.nullcontext() if force else continued():
            calls.optimize(ready, how, force, report)
            record, found, levels = calls.tuned_record(ready.run, calls.EVERY_LEVEL, then, how)
            calls.finetune(ready.run, record, found, levels, how, force, report)
            record, found, sampling = calls.sampling(ready.run, last, how)
            calls.generate(ready.run, record, found, sampling, items, how, force, output, report)
