"""Which part of the package may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "imagic_cli"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
# What may be imported only under these beginnings.
ONLY = {
    "typer": ("cli/",),
    "rich": ("cli/",),
    "imagic_cli.cli": ("cli/", "__main__.py"),
    "imagic_cli.stages": ("cli/", "evaluation/", "stages/", "sketchbook/bench.py"),
    "diffusers": ("backends/", "evaluation/", "sketchbook/"),
    "transformers": ("backends/", "evaluation/", "sketchbook/"),
    "huggingface_hub": ("backends/hub.py", "doctor.py"),
    "filelock": ("lock.py",),
    "matplotlib": ("evaluation/plots.py",),
    "jinja2": ("pages/",),
    "safetensors": ("container.py", "backends/", "sketchbook/"),
    "peft": ("tuning.py",),
    "click": (),
    "pickle": (),
}
WITHOUT_TORCH = [
    "errors.py",
    "config.py",
    "presets.py",
    "events.py",
    "files.py",
    "run.py",
    "stamps.py",
    "sweep.py",
    "artifacts.py",
]
WITHOUT_TORCH += [
    module
    for module in MODULES
    if module.startswith(("cli/", "pages/", "study/")) and module != "pages/evaluation_page.py"
]
WITHOUT_TORCH += ["evaluation/intervals.py", "evaluation/plots.py", "evaluation/table.py"]
WITHOUT_TORCH += ["container.py", "export.py", "freshness.py", "lock.py", "locate.py", "names.py", "record.py"]
WITHOUT_TORCH += ["inspection.py", "outputs.py", "resolve.py", "verification.py"]


def imported(module: str, at_once: bool = False) -> Iterator[str]:
    """The names that a module imports; with `at_once` only those that importing it imports."""
    tree = ast.parse((PACKAGE / module).read_text())
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_stays_in_its_layer(module: str) -> None:
    for name in imported(module):
        for banned, allowed in ONLY.items():
            if f"{name}.".startswith(f"{banned}."):
                assert module.startswith(allowed), f"{module} imports {name}"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_nothing_that_answers_at_once_imports_torch(module: str) -> None:
    heavy = ("torch", "diffusers", "transformers", "imagic_cli.embedding", "imagic_cli.precision", "imagic_cli.noise")
    assert [name for name in imported(module, at_once=True) if name.startswith(heavy)] == []
