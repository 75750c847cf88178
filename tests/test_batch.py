"""docs/batch.sh, as the README shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "docs/batch.sh"


def batch(models: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    steps = ["--optimize-steps", "2", "--finetune-steps", "2", "--steps", "2"]
    command = ["bash", str(SCRIPT), "edits.tsv", "results", "--model", str(models / "sd"), *steps, *flags]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})


def test_the_batch_script_makes_every_edit_and_lists_what_failed(photo: Path, models: Path) -> None:
    Path("edits.tsv").write_text(f"missing.png\ta dog\n{photo}\ta bird flying")
    first = batch(models)
    assert first.returncode == 1, first.stderr
    assert Path("results/failed.tsv").read_text() == "3\tmissing.png\ta dog\n"
    assert "missing.png" in first.stderr
    image = Path(Path("results/0002.txt").read_text().strip())
    made = image.stat().st_mtime_ns
    Path("edits.tsv").write_text(f"{photo}\ta bird flying\n" * 2)
    assert batch(models).returncode == 0
    assert Path("results/failed.tsv").read_text() == ""
    assert image.stat().st_mtime_ns == made


def test_the_batch_script_takes_any_ends_of_lines_and_passes_over_blank_ones(photo: Path, models: Path) -> None:
    Path("edits.tsv").write_bytes(f"{photo}\ta bird flying\r\n\r\n\n{photo}\ta bird flying\r\n".encode())
    made = batch(models, "--seeds", "2")
    assert made.returncode == 0, (made.stderr, Path("results/failed.tsv").read_text())
    assert sorted(path.name for path in Path("results").glob("*.txt")) == ["0001.txt", "0004.txt"]
    assert json.loads(Path("results/0001/run.json").read_text())["text"] == "a bird flying"
    lines = Path("results/0004.txt").read_text().splitlines()
    assert [Path(line).name for line in lines] == ["eta-0.700_seed-0000.png", "eta-0.700_seed-0001.png", "sheet.png"]
