"""`make demo`: the three stages through the installed command, on a small random model and a drawn picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import toys

FOLDER = Path("runs/demo")


def main() -> None:
    model = FOLDER / "model"
    if not (model / "model_index.json").exists():
        toys.stable_diffusion(model)
    picture = FOLDER / "picture.png"
    toys.picture(128).save(picture)
    imagic = [str(Path(sys.executable).with_name("imagic"))]
    text = "a disc under a darker sky"
    steps = ["--optimize-steps", "200", "--finetune-steps", "200", "--eta", "0:1:0.25", "--seeds", "2"]
    run = ["--run", str(FOLDER / "run")]
    subprocess.run(
        [*imagic, "edit", str(picture), text, "--model", str(model), "--size", "128", *steps, *run], check=True
    )
    subprocess.run([*imagic, "status", str(FOLDER / "run")], check=True)


if __name__ == "__main__":
    main()
