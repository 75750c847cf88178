"""The four networks of the sketchbook model and its tokenizer, built from the stock classes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from imagic_cli.sketchbook.captions import known_words
from imagic_cli.sketchbook.scenes import SIZE

START, END = "<|startoftext|>", "<|endoftext|>"
# Words a newcomer may write that no caption has; their embeddings stay untrained but they do not fall apart in letters.
EXTRA_WORDS = ("photo", "image", "painting", "to", "by", "it", "'s")


@dataclass(frozen=True)
class Sizes:
    """Every width and depth; the tests build the same networks far smaller."""

    vae: tuple[int, ...] = (32, 64, 128, 128)
    vae_groups: int = 8
    text_width: int = 128
    text_layers: int = 4
    text_length: int = 32
    vision_width: int = 128
    vision_layers: int = 4
    vision_patch: int = 16
    heads: int = 4
    unet: tuple[int, ...] = (64, 128, 192)
    unet_heads: tuple[int, ...] = (4, 4, 8)
    unet_layers: int = 1
    t5_width: int = 128
    t5_layers: int = 3
    t5_heads: int = 4
    base: tuple[int, ...] = (24, 48, 96, 192)
    super_resolution: tuple[int, ...] = (16, 16, 32, 64, 128)
    pixel_groups: int = 8
    judge: tuple[int, ...] = (24, 48, 96, 160)


def vae(sizes: Sizes) -> AutoencoderKL:
    """Pictures (B, 3, 128, 128) to and from latents (B, 4, 16, 16)."""
    levels = len(sizes.vae)
    network: AutoencoderKL = AutoencoderKL(
        latent_channels=4,
        block_out_channels=sizes.vae,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=sizes.vae_groups,
        sample_size=SIZE,
        # Attention would tie the network to one picture size, and it learns from crops.
        mid_block_add_attention=False,
    )
    _start_as_thumbnail(network)
    return network


def _start_as_thumbnail(network: AutoencoderKL) -> None:
    """Makes the untrained autoencoder close to shrinking and enlarging a picture, almost without latent noise.

    From the stock initialization, which mixes colours in every layer and hides the latent in unit noise, colours take
    thousands of steps to come through.
    """
    for name, weight in network.named_parameters():
        part = name.rsplit(".", 2)[-2:]
        if part[0] == "conv2":
            nn.init.zeros_(weight)
        elif part == ["conv_shortcut", "weight"]:
            nn.init.orthogonal_(weight)
        elif name.endswith("downsamplers.0.conv.weight"):
            # The stride starts at the kernel's corner: these four taps are the mean of each 2 x 2.
            nn.init.zeros_(weight)
            weight.data[:, :, :2, :2] = torch.eye(len(weight))[:, :, None, None] / 4
        elif name.endswith("upsamplers.0.conv.weight"):
            nn.init.dirac_(weight)
        elif name.startswith("quant_conv."):
            # The second half of its outputs is the log variance.
            weight.data[len(weight) // 2 :] = -4.0 if part[1] == "bias" else 0.0


def unet(sizes: Sizes) -> UNet2DConditionModel:
    """Noisy latents (B, 4, 16, 16) to the predicted velocity, conditioned on (B, tokens, text_width)."""
    below = len(sizes.unet) - 1
    # Attention at 16 x 16 costs a third of a step, and words are read well enough at 8 x 8.
    network: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=SIZE // 2 ** (len(sizes.vae) - 1),
        in_channels=4,
        out_channels=4,
        block_out_channels=sizes.unet,
        layers_per_block=sizes.unet_layers,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * below,
        up_block_types=("CrossAttnUpBlock2D",) * below + ("UpBlock2D",),
        cross_attention_dim=sizes.text_width,
        attention_head_dim=sizes.unet_heads,
        norm_num_groups=16,
    )
    silence(network, ("conv2", "proj_out", "conv_out"))
    return network


def silence(network: nn.Module, last: tuple[str, ...]) -> None:
    """Makes every residual branch start at nothing; `last` are the ends of the names of their last layers.

    So start the networks that these descend from: they learn faster so.
    """
    for name, weight in network.named_parameters():
        if name.rpartition(".")[0].endswith(last):
            nn.init.zeros_(weight)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, predicting velocity, from which a picture's layout is learned sooner."""
    schedule: DDIMScheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    return schedule


def clip(sizes: Sizes, vocabulary: dict[str, int]) -> CLIPModel:
    """A small CLIP whose text tower also conditions the UNet."""
    shared: dict[str, Any] = {"num_attention_heads": sizes.heads, "projection_dim": sizes.text_width}
    text = shared | {
        "vocab_size": len(vocabulary),
        "hidden_size": sizes.text_width,
        "intermediate_size": 4 * sizes.text_width,
        "num_hidden_layers": sizes.text_layers,
        "max_position_embeddings": sizes.text_length,
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    vision = shared | {
        "hidden_size": sizes.vision_width,
        "intermediate_size": 4 * sizes.vision_width,
        "num_hidden_layers": sizes.vision_layers,
        "image_size": SIZE,
        "patch_size": sizes.vision_patch,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes.text_width)
    return CLIPModel(config)


def word_pairs(words: list[str]) -> list[tuple[str, str]]:
    """The merges that make each of `words` one token, by byte-pair encoding with ties broken alphabetically.

    The library's own trainers order equal pairs differently from run to run, which would shuffle the token ids.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in split):
        counts = Counter(pair for parts in split for pair in zip(parts, parts[1:], strict=False))
        first, second = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((first, second))
        for parts in split:
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == (first, second):
                    parts[at : at + 2] = [first + second]
                at += 1
    return merges


def tokenizer(folder: Path, sizes: Sizes) -> CLIPTokenizer:
    """A CLIP tokenizer with one token for each word of the grammar, saved in `folder` and loaded back from there.

    Letters, digits and bytes are tokens of their own, so that any text has ids.
    """
    # "children's" reaches the model as "children" and "'s", as the CLIP tokenizer cuts words.
    words = [part for word in known_words() for part in word.removesuffix("'s").split("'") if part]
    merges = word_pairs([*words, *EXTRA_WORDS])
    letters = list(_byte_letters())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [token for token in dict.fromkeys(a + b for a, b in merges) if token not in set(tokens)]
    vocabulary = {token: i for i, token in enumerate([*tokens, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=sizes.text_length
    ).save_pretrained(folder)
    loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return loaded


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level encoders use."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + i) for i in range(len(rest)))]
