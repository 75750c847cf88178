"""Peak memory of a step of A and of B, and of an image: Stable Diffusion 1.x shape, 860 M parameters, random weights.

    python tests/bench/memory.py [--work FOLDER] [--size 512]

Builds the model from its config in the diffusers layout (2 GB in fp16), and runs the installed command on it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).parents[1]))
import toys


def build(folder: Path, width: float = 1.0) -> None:
    """Stable Diffusion 1.x from its published shapes; the tokenizer alone is a toy, the UNet `width` times as wide."""
    torch.manual_seed(0)
    words = toys.tokenizer(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        projection_dim=768,
        eos_token_id=len(words) - 1,
    )
    # So many numbers take a processor long to draw.
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        channels = tuple(round(width * each) for each in (320, 640, 1280, 1280))
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=channels, cross_attention_dim=768, attention_head_dim=8
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        encoder = CLIPTextModel(text)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=encoder.half(),
        tokenizer=words,
        unet=unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def peak(*arguments: object) -> float:
    """Run the command in a process of its own and return its peak resident memory, GiB."""
    script = Path(__file__).with_name("resident.py")
    command = [sys.executable, str(script), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {' '.join(command)}")
    return round(float(done.stdout) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "imagic-memory")
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    model, photo, run = options.work / "model", options.work / "photo.png", options.work / f"run-{options.size}"
    if not (model / "model_index.json").exists():
        build(model)
    Image.effect_noise((options.size, options.size), 80).convert("RGB").save(photo)
    step = ["--steps", 1, "--probe-every", 0, "--checkpoint-every", 0, "--force"]
    found = {
        "parameters": sum(p.numel() for p in UNet2DConditionModel.from_pretrained(model / "unet").parameters()),
        "size": options.size,
        "A, GiB": peak("optimize", photo, "a bird", "--model", model, "--run", run, "--size", options.size, *step),
        "B, LoRA, GiB": peak("finetune", "--run", run, "--method", "lora", *step),
        "B, GiB": peak("finetune", "--run", run, "--method", "full", *step),
        "C, GiB": peak("generate", "--run", run, "--eta", 0.7, "--steps", 2, "--force"),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
