"""The bundled models: what is shipped, and that the method means something on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drive import done, imagic
from PIL import Image
from safetensors import safe_open

from imagic_cli.backends.source import BUNDLED
from imagic_cli.evaluation.fidelity import psnr
from imagic_cli.sketchbook import judge
from imagic_cli.sketchbook.corpus import tensor
from imagic_cli.sketchbook.measure import round_trip
from imagic_cli.sketchbook.scenes import Scene, drawn

MODEL, CASCADE = BUNDLED["sketchbook"], BUNDLED["sketchbook-cascade"]
LARGEST_MB = 40
SEED = 4
BEFORE, AFTER = "a yellow bird perched on grass", "a yellow bird spreading wings on grass"
# As the paper words it: colour and place are left to the photograph.
TEXT = "a bird spreading wings"
SEEDS = 8
# Measured: 31.4 over 256 scenes; in the edit below 24.9 at eta 0, and the right picture with 4 seeds of 8. Less here,
# for other processors round differently.
LEAST_DB, LEAST_RECONSTRUCTION_DB, LEAST_RIGHT = 30.0, 24.0, 3
# Measured: 22.9 to 23.2 at eta 0, and the right picture with each seed.
LEAST_CASCADE_DB, LEAST_CASCADE_RIGHT = 21.5, 2


def seen(path: Path) -> judge.Sight:
    with Image.open(path) as image:
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return judge.load().see(pixels.view(1, 128, 128, 3).permute(0, 3, 1, 2).float() / 127.5 - 1)[0]


@pytest.mark.parametrize(
    ("model", "parts"),
    [(MODEL, {"vae", "unet", "text_encoder", "clip", "judge"}), (CASCADE, {"unet", "text_encoder"})],
)
def test_it_is_small_and_half_precision(model: Path, parts: set[str]) -> None:
    files = [path for path in model.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST_MB * 1e6
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.parent.name for path in weights} == parts
    for path in weights:
        with safe_open(path, "pt") as file:
            dtypes = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert "F32" not in dtypes, path


def test_the_stock_pipeline_loads_it_without_our_code(tmp_path: Path) -> None:
    code = f"""
import sys
import torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({str(MODEL)!r})
generator = torch.Generator().manual_seed({SEED})
pipeline({AFTER!r}, num_inference_steps=25, guidance_scale=4.0, generator=generator).images[0].save("bird.png")
assert not any(name.startswith("imagic") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert (seen(tmp_path / "bird.png").subject, seen(tmp_path / "bird.png").colour) == ("bird", "yellow")


def test_its_autoencoder_gives_scenes_back() -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(MODEL / "vae")
    clean = torch.cat([tensor([drawn("test", i)]) for i in range(24)])
    back = round_trip(vae, clean)
    assert float(10 * torch.log10(4 / (back - clean).square().mean(dim=(1, 2, 3))).mean()) > LEAST_DB


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `make demo` with fewer etas, by the preset's own recipe."""
    folder = tmp_path_factory.mktemp("bundled")
    done("scene", BEFORE, folder / "bird.png", "--seed", SEED)
    result = imagic("edit", folder / "bird.png", TEXT, "--eta", "0,0.8", "--seeds", SEEDS, "--run", folder / "run")
    assert result.code == 0, result.err
    assert "demo model" in result.err
    return folder


def test_an_edit_spreads_the_birds_wings_and_keeps_the_rest(edited: Path) -> None:
    wanted = judge.truth(Scene.from_text(AFTER, SEED))
    images = [edited / f"run/images/eta-0.800_seed-{seed:04d}.png" for seed in range(SEEDS)]
    assert sum(seen(image) == wanted for image in images) >= LEAST_RIGHT


def test_at_eta_0_the_input_comes_back(edited: Path) -> None:
    with Image.open(edited / "bird.png") as photo, Image.open(edited / "run/images/eta-0.000_seed-0000.png") as image:
        assert psnr(image.convert("RGB"), photo.convert("RGB")) > LEAST_RECONSTRUCTION_DB


def test_the_cascade_spreads_them_too_and_its_base_gives_the_input_back(edited: Path) -> None:
    run = edited / "cascade"
    flags = ["--model", "sketchbook-cascade", "--eta", "0,0.8", "--seeds", 3]
    done("edit", edited / "bird.png", TEXT, *flags, "--run", run)
    wanted = judge.truth(Scene.from_text(AFTER, SEED))
    images = [run / f"images/eta-0.800_seed-{seed:04d}.png" for seed in range(3)]
    assert sum(seen(image) == wanted for image in images) >= LEAST_CASCADE_RIGHT
    with Image.open(edited / "bird.png") as photo, Image.open(run / "images/eta-0.000_seed-0000.png") as image:
        assert psnr(image.convert("RGB"), photo.convert("RGB")) > LEAST_CASCADE_DB
    result = done("sweep", run, "--eta", "0.8", "--seed", "0:1", "--quiet")
    assert "clip_score[sketchbook/clip]" in Path(result.lines[-1]).parent.joinpath("metrics.csv").read_text()


def test_a_model_that_is_named_brings_no_word_about_the_demo(edited: Path) -> None:
    result = done("optimize", edited / "bird.png", TEXT, "--model", MODEL, "--run", edited / "named", "--dry-run")
    assert "demo model" not in result.err
    assert json.loads(done("status", edited / "run", "--json").lines[0])
