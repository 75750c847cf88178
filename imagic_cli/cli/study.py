"""`imagic study`: its two commands."""

from __future__ import annotations

from pathlib import Path

import typer

from imagic_cli import files
from imagic_cli.cli import options as o
from imagic_cli.cli.checks import check_output
from imagic_cli.cli.report import Report
from imagic_cli.errors import UsageError
from imagic_cli.locate import can_be_named

app = typer.Typer(
    name="study",
    help="Ask people which of two methods' edits is better, as the paper does, and count their answers.",
    no_args_is_help=True,
)


@app.command()
def build(
    methods: o.MethodsArgument,
    inputs: o.InputsOption,
    output: o.StudyOutOption,
    seed: o.StudySeedOption = 0,
    questions: o.QuestionsOption = None,
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """A folder with a page that asks which of two edits is better: open it as a file, or put it on any web server."""
    folders = named_folders(methods)
    if not can_be_named(output):
        raise UsageError("--out is no name that a folder can have")
    from imagic_cli.study.build import build as work

    with Report(False, json) as report:
        report.result(work(output, folders, inputs, seed, questions, report), "page")


@app.command()
def score(
    answers: o.AnswersArgument,
    output: o.PlotOption = Path("preferences.svg"),
    json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """How often each method was preferred, with exact 95 % intervals, from the answers that were downloaded."""
    check_output(output, ".svg")
    from imagic_cli.evaluation.plots import preferences
    from imagic_cli.study.score import HEAD
    from imagic_cli.study.score import score as work

    with Report(False, json) as report:
        found = work(answers)
        rates = {
            f"{each.method}\nover {each.against}": (each.rate.mean, each.rate.low, each.rate.high)
            for each in found.preferences
        }
        title = f"{found.left.count} answers of {found.raters} raters"
        files.commit_bytes(output, preferences(rates, title).encode())
        report.table(title, HEAD, [each.cells for each in found.preferences])
        share = f"{100 * found.left.mean:.1f} % ({100 * found.left.low:.1f} to {100 * found.left.high:.1f})"
        report.say(f"the left picture was chosen in {share} of the answers; about half, where sides did not matter")
        report.result(output, "plot")


def named_folders(texts: list[str]) -> dict[str, Path]:
    """Methods' folders by name, from 'NAME=FOLDER'.

    Raises:
        UsageError: one is not that, a name comes twice, or there is only one.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        name = name.strip()
        if not equals or not name.isprintable() or not name or not folder or len(name) > 200:
            raise UsageError(f"{text!r} is not METHOD=FOLDER", "such as imagic=results/imagic")
        if name in found:
            raise UsageError(f"the method {name!r} is named twice")
        found[name] = Path(folder)
    if len(found) < 2:
        raise UsageError("a study compares two or more methods", "such as imagic=results/imagic sdedit=results/sdedit")
    return found
