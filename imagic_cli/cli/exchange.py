"""What comes into a run from drawing, and what of it other programs take."""

from __future__ import annotations

from pathlib import Path

from imagic_cli import files
from imagic_cli.cli import checks
from imagic_cli.cli import options as o
from imagic_cli.cli.report import Report
from imagic_cli.errors import UsageError
from imagic_cli.locate import existing_run


def scene(
    text: o.SceneArgument,
    output: o.SceneFileArgument,
    seed: o.SceneSeedOption = 0,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Draw an input picture for the demo model, such as "a red bird on grass"; the seed decides what is not said."""
    with Report(False, json) as report:
        checks.check_output(output)
        from PIL.PngImagePlugin import PngInfo

        from imagic_cli import png
        from imagic_cli.outputs import check_free, is_picture
        from imagic_cli.sketchbook.scenes import Scene

        try:
            drawn = Scene.from_text(text, seed).draw()
        except ValueError as error:
            raise UsageError(str(error)) from error
        hint = "remove it first, or name another"
        check_free(output, lambda path: png.is_ours(path) or is_picture(path, drawn), hint=hint)

        texts = PngInfo()
        png.sign(texts, {"scene": text, "seed": seed})

        def save(temporary: Path) -> None:
            drawn.save(temporary, format="PNG", pnginfo=texts)

        files.commit(output, save)
        report.result(output, "image")


def export(
    lora: o.LoraOption,
    run: o.RunArgument = None,
    force: o.ForceOption = False,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Write what finetune --method lora trained as a .safetensors file that diffusers and other programs load."""
    with Report(False, json) as report:
        chosen = existing_run(run, report)
        checks.check_output(lora, ".safetensors", "--lora")
        from imagic_cli.export import export_lora
        from imagic_cli.outputs import check_outside

        check_outside(lora, chosen.path, "--lora")

        for path in export_lora(chosen, lora, force):
            report.result(path, "lora")
