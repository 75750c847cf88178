"""Runs to report on, made in moments: trained by a denoiser of a few numbers, with pictures of one colour."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import instant
import toys
from drive import done
from PIL import Image

from imagic_cli import png
from imagic_cli.evaluation.table import Table

TEXT = 'a bird <script>alert("no")</script> & "wings"'


def tuned(models: Path, folder: Path) -> Path:
    """A trained run, with nothing generated."""
    toys.picture(48).save(folder / "bïrd 1.png")
    with instant.denoiser():
        begin = ["--model", models / "sd", "--run", folder / "run 1", "--probe-every", 2]
        done("optimize", folder / "bïrd 1.png", TEXT, *begin, "--steps", 5)
        done("finetune", "--run", folder / "run 1", "--steps", 4)
    return folder / "run 1"


def full(trained: Path, folder: Path) -> Path:
    """A copy with a grid of 3 etas and 2 seeds that lacks one picture, figures, and a pretrained variant."""
    run = Path(shutil.copytree(trained, folder / "run 1"))
    with instant.denoiser():
        done("generate", "--run", run, "--eta", "0,0.7,1", "--seeds", 2)
        done("generate", "--run", run, "--eta", "0.7", "--pretrained")
    # A denoiser of three numbers makes grey of everything: pictures that differ, with the records of the real ones.
    for path in run.rglob("eta-*.png"):
        record = png.read_record(path)
        shade = round(200 * float(str(record["eta"]))) + 20 * int(str(record["seed"]))
        png.save(path, Image.new("RGB", (48, 48), (shade, 90, 40)), "parameters", record)
    items = [(eta, seed) for eta in ("0.000", "0.700", "1.000") for seed in (0, 1)]
    rows = {item: {"clip_score[x]": 20 + float(item[0]), "ssim": 1 - float(item[0]) / 2} for item in items}
    Table(rows, "clip_score[x]", "ssim").save(run / "images" / "metrics.csv")
    (run / "images" / "eta-1.000_seed-0001.png").unlink()
    return run


def data(page: str) -> dict[str, Any]:
    """What the page's script works on."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def written(run: Path, *flags: object) -> str:
    """The page of a run."""
    (path,) = done("report", run, *flags).lines
    return Path(path).read_text("utf-8")
