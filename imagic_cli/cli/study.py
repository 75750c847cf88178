"""`imagic study`: its two commands."""

from __future__ import annotations

from pathlib import Path

import typer

from imagic_cli import files
from imagic_cli.cli import options as o
from imagic_cli.cli.checks import check_output, named_folders
from imagic_cli.cli.report import Report
from imagic_cli.errors import UsageError
from imagic_cli.events import Note
from imagic_cli.locate import can_be_named
from imagic_cli.names import plural

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
    if len(folders) < 2:
        raise UsageError("a study compares two or more methods", "such as imagic=results/imagic sdedit=results/sdedit")
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
        title = f"{plural(found.left.count, 'answer')} of {plural(found.raters, 'rater')}"
        files.commit_bytes(output, preferences(rates, title).encode())
        report.table(title, HEAD, [each.cells for each in found.preferences])
        share = f"{100 * found.left.mean:.1f} % ({100 * found.left.low:.1f} to {100 * found.left.high:.1f})"
        about = "about half, where sides did not matter"
        report(Note(f"the left picture was chosen in {share} of the answers; {about}"))
        report.result(output, "plot")
