"""Trains the bundled model: `python -m imagic_cli.sketchbook.train vae|clip|judge|unet|export --out DIR`.

Or the small cascade: `cascade-text`, `cascade-base`, then `cascade-sr`, at whose end DIR/cascade is written, as by
`cascade-export`.

Each command takes up its own checkpoint in DIR, so the same command given again trains on; `export` (also done at the
end of `unet`) writes DIR/model, a Stable Diffusion folder with its model card. `unet` needs a finished `vae` and a
finished `clip`; after more of either, give it some more steps too: it has to follow the latents and the words it reads.
`judge` and `cascade-text` need nothing; `cascade-base` and `cascade-sr`, which may run side by side, need the second.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from imagic_cli.backends.pixels import LowResolution
from imagic_cli.sketchbook import cascade_networks, networks
from imagic_cli.sketchbook.corpus import Corpus
from imagic_cli.sketchbook.export import export, trained_clip, trained_vae
from imagic_cli.sketchbook.export_cascade import (
    BASE_LARGEST,
    LARGEST,
    export_cascade,
    trained_text_encoder,
    untrained_reader,
)
from imagic_cli.sketchbook.judge import Judge
from imagic_cli.sketchbook.lesson_cascade import BaseLesson, SuperResolutionLesson
from imagic_cli.sketchbook.lesson_clip import ClipLesson
from imagic_cli.sketchbook.lesson_judge import JudgeLesson
from imagic_cli.sketchbook.lesson_unet import UnetLesson, encoded
from imagic_cli.sketchbook.lesson_vae import VaeLesson
from imagic_cli.sketchbook.loop import Pace, log, train
from imagic_cli.sketchbook.networks import Sizes
from imagic_cli.sketchbook.scenes import Split


@dataclass(frozen=True)
class Plan:
    """How far one network is trained unless told otherwise, and on how many scenes.

    The rate falls over the last `tail` share of the steps.
    """

    steps: int
    rate: float
    batch: int
    scenes: int = 20_000
    tail: float = 0.3


# Those of the bundled model: eight minutes of one H200 (the UNet's time was over at step 3,916), the judge half an hour
# of one CPU core, which would need days for the rest.
PLANS = {
    "vae": Plan(4_985, 2e-3, 64, 80_000),
    "clip": Plan(4_000, 1e-3, 256, 80_000),
    "unet": Plan(4_250, 1e-3, 512, 80_000),
    "judge": Plan(2_500, 1e-3, 48),
    # Those of the bundled cascade: three and a half hours of one CPU core.
    "cascade-text": Plan(1_500, 1e-3, 96),
    "cascade-base": Plan(3_200, 1e-3, 32),
    "cascade-sr": Plan(4_000, 1e-3, 8),
}


Network = TypeVar("Network", bound=nn.Module)


def _placed(network: Network, device: str) -> Network:
    # torch's stubs do not know this overload.
    nn.Module.to(network, device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def learn_vae(out: Path, sizes: Sizes, pace: Pace, corpus: Corpus, batch: int, device: str) -> None:
    """Trains the autoencoder; leaves vae.safetensors, vae.jsonl and vae.png in `out`."""
    network = _placed(networks.vae(sizes), device)
    seen, heldout = corpus.pictures("train"), corpus.pictures("heldout")[:128]
    train(VaeLesson(network, seen, heldout, batch), out, pace, corpus.ahead)


def learn_clip(out: Path, sizes: Sizes, pace: Pace, corpus: Corpus, batch: int, device: str) -> None:
    """Trains CLIP; leaves clip.safetensors, clip.jsonl and clip.png in `out`."""
    tokenizer = networks.tokenizer(out / "tokenizer", sizes)
    network = _placed(networks.clip(sizes, tokenizer.get_vocab()), device)
    seen, heldout = corpus.pictures("train"), corpus.pictures("heldout")
    train(ClipLesson(network, tokenizer, seen, heldout, batch), out, pace, corpus.ahead)


def learn_judge(out: Path, sizes: Sizes, pace: Pace, corpus: Corpus, batch: int, device: str) -> None:
    """Trains the judge; leaves judge.safetensors, judge.jsonl and judge.png in `out`."""
    network = _placed(Judge(sizes.judge), device)
    train(JudgeLesson(network, corpus.pictures("judge"), corpus.pictures("heldout"), batch), out, pace, corpus.ahead)


def _latents(corpus: Corpus, split: Split, vae: AutoencoderKL, step: int) -> torch.Tensor:
    # The file is named after the autoencoder's step.
    path = corpus.folder / f"latents-{split}-{corpus.count(split)}-{step}.safetensors"
    return encoded(path, vae, corpus.pictures(split))


def learn_unet(out: Path, sizes: Sizes, pace: Pace, corpus: Corpus, batch: int, device: str) -> None:
    """Trains the UNet on what the trained autoencoder and text tower make of the scenes, then exports the model."""
    tokenizer, clip = trained_clip(out, sizes)
    vae, step = trained_vae(out, sizes)
    _placed(vae, device)
    lesson = UnetLesson(
        network=_placed(networks.unet(sizes), device),
        text_encoder=_placed(clip.text_model, device),
        tokenizer=tokenizer,
        vae=vae,
        noise=networks.scheduler(),
        latents=_latents(corpus, "train", vae, step),
        heldout=_latents(corpus, "heldout", vae, step),
        scale=vae.config["scaling_factor"],
        batch=batch,
    )
    train(lesson, out, pace, corpus.ahead)
    export(out, sizes)


def learn_cascade_text(out: Path, sizes: Sizes, pace: Pace, corpus: Corpus, batch: int, device: str) -> None:
    """Trains the cascade's text encoder; leaves cascade-text.safetensors, .jsonl and .png in `out`."""
    tokenizer, reader = untrained_reader(out, sizes)
    seen, heldout = corpus.pictures("train"), corpus.pictures("heldout")
    train(ClipLesson(_placed(reader, device), tokenizer, seen, heldout, batch, "cascade-text"), out, pace, corpus.ahead)


def learn_cascade_base(out: Path, sizes: Sizes, pace: Pace, corpus: Corpus, batch: int, device: str) -> None:
    """Trains the cascade's base; leaves cascade-base.safetensors, .jsonl and .png in `out`."""
    tokenizer, text_encoder = trained_text_encoder(out, sizes)
    lesson = BaseLesson(
        network=_placed(cascade_networks.base(sizes), device),
        text_encoder=_placed(text_encoder, device),
        tokenizer=tokenizer,
        noise=cascade_networks.schedule(BASE_LARGEST),
        pictures=corpus.pictures("train"),
        heldout=corpus.pictures("heldout"),
        batch=batch,
    )
    train(lesson, out, pace, corpus.ahead)


def learn_cascade_sr(out: Path, sizes: Sizes, pace: Pace, corpus: Corpus, batch: int, device: str) -> None:
    """Trains super-resolution, then exports the cascade."""
    tokenizer, text_encoder = trained_text_encoder(out, sizes)
    noising = cascade_networks.noising()
    # A whole held-out split at full size would take as long as some hundred steps.
    heldout = corpus.pictures("heldout")[:128]
    lesson = SuperResolutionLesson(
        network=_placed(cascade_networks.super_resolution(sizes), device),
        text_encoder=_placed(text_encoder, device),
        tokenizer=tokenizer,
        noise=cascade_networks.schedule(LARGEST),
        low=LowResolution(noising, noising.config["num_train_timesteps"], cascade_networks.FACTOR),
        pictures=corpus.pictures("train"),
        heldout=heldout,
        batch=batch,
    )
    train(lesson, out, pace, corpus.ahead)
    export_cascade(out, sizes)


LEARN = {
    "vae": learn_vae,
    "clip": learn_clip,
    "judge": learn_judge,
    "unet": learn_unet,
    "cascade-text": learn_cascade_text,
    "cascade-base": learn_cascade_base,
    "cascade-sr": learn_cascade_sr,
}
EXPORT = {"export": export, "cascade-export": export_cascade}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Raises FileNotFoundError when an earlier network is missing."""
    parser = argparse.ArgumentParser(prog="python -m imagic_cli.sketchbook.train", description=__doc__)
    parser.add_argument("network", choices=[*LEARN, *EXPORT])
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, logs, grids and the model")
    parser.add_argument("--steps", type=int, help="the last step; the rate falls towards it (default: the plan's)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop this session after so many minutes")
    parser.add_argument("--rate", type=float, help="learning rate (default: the plan's)")
    parser.add_argument("--batch", type=int, help="scenes (for vae: 64-pixel crops) a step (default: the plan's)")
    parser.add_argument("--scenes", type=int, help="training scenes drawn ahead, 49 kB each (default: the plan's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="for the CPU; as many processes draw")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    with _logging_to(given.out / "train.log"):
        if given.network in EXPORT:
            EXPORT[given.network](given.out, Sizes())
        else:
            _learn(given)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handlers = (logging.FileHandler(path), logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def _learn(given: argparse.Namespace) -> None:
    plan = PLANS[given.network]
    steps = given.steps or plan.steps
    pace = Pace(
        steps=steps,
        rate=given.rate or plan.rate,
        minutes=given.minutes,
        tail=round(steps * plan.tail),
        seed=given.seed,
    )
    corpus = Corpus(given.out / "cache", given.scenes or plan.scenes, workers=given.threads)
    torch.manual_seed(given.seed)
    if given.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    LEARN[given.network](given.out, Sizes(), pace, corpus, given.batch or plan.batch, given.device)


if __name__ == "__main__":
    main()
