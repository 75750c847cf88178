"""The benchmark for a GPU runs, in small, on any machine: a lent GPU is no place to find out that it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_every_part_of_it_runs(tmp_path: Path) -> None:
    script = Path(__file__).parent / "bench/gpu.py"
    command = [sys.executable, str(script), "--work", str(tmp_path), "--quick", "--json", str(tmp_path / "found.json")]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((tmp_path / "found.json").read_text())["found"]
    assert found.keys() >= {"machine", "A", "B", "image", "images", "eager", "LoRA", "checkpoints", "again"}
    assert not [each for each in found.values() if "failed" in each]
