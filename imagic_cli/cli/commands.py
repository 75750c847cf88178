"""The commands, in the order in which help shows them."""

from __future__ import annotations

import typer

from imagic_cli import __version__
from imagic_cli.cli import comparing, exchange, looking, measuring, stages, study, upkeep

app = typer.Typer(
    name="imagic",
    help="Edit one photograph from one sentence (Imagic, Kawar et al., CVPR 2023).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"imagic {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it.")) -> None:
    pass


for _command in (
    stages.optimize,
    stages.finetune,
    stages.generate,
    stages.edit,
    looking.sweep,
    comparing.baseline,
    comparing.ablate,
    exchange.export,
    looking.report,
    upkeep.status,
    upkeep.check,
    upkeep.clean,
    exchange.scene,
    measuring.evaluate,
    measuring.bench,
    upkeep.doctor,
):
    app.command()(_command)
app.add_typer(study.app)
