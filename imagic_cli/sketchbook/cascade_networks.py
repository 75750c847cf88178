"""The networks of the small cascade, its tokenizer and its schedules: DeepFloyd IF's kinds, from the stock classes.

The base draws 32 x 32 pixels, super-resolution makes 128 x 128 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn
from transformers import CLIPModel, T5Config, T5EncoderModel, T5Tokenizer

from imagic_cli.backends.deepfloyd_if import WINDOW
from imagic_cli.sketchbook.captions import known_words
from imagic_cli.sketchbook.networks import EXTRA_WORDS, Sizes, silence
from imagic_cli.sketchbook.scenes import SIZE
from imagic_cli.sketchbook.tokens import token_ids

FACTOR = 4
# What begins a word in T5's vocabularies.
SPACE = "\u2581"
# Where they have padding and the end of a text.
PAD, END = 0, 1
# Log probabilities of a word and of a letter: a word of the grammar is never cheaper in letters.
WORD, LETTER = -1.0, -10.0


def tokenizer(folder: Path) -> T5Tokenizer:
    """A T5 tokenizer with one token for each word of the grammar, saved in `folder` and loaded back from there.

    The printable characters of ASCII are tokens of their own; of other texts the rest is the unknown token.
    """
    words = sorted({*known_words(), *EXTRA_WORDS})
    letters = map(chr, range(ord("!"), ord("~") + 1))
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*((SPACE + word, WORD) for word in words), (SPACE, LETTER), *((letter, LETTER) for letter in letters)]
    # T5's hundred blanks to be filled in are of no use to an encoder of captions.
    T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=WINDOW).save_pretrained(folder)
    loaded: T5Tokenizer = T5Tokenizer.from_pretrained(folder)
    return loaded


def text_encoder(sizes: Sizes, words: int) -> T5EncoderModel:
    """The encoder of T5 1.1, small, for a vocabulary of so many words; no dropout, so that steps can be repeated."""
    return T5EncoderModel(
        T5Config(
            vocab_size=words,
            d_model=sizes.t5_width,
            d_kv=sizes.t5_width // sizes.t5_heads,
            d_ff=2 * sizes.t5_width,
            num_layers=sizes.t5_layers,
            num_heads=sizes.t5_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=PAD,
            eos_token_id=END,
        )
    )


def tokenized(tokenizer: T5Tokenizer, captions: Sequence[str]) -> torch.Tensor:
    """Captions as IF's pipeline hands them to its text encoder: ids (B, WINDOW)."""
    return token_ids(tokenizer, [caption.lower().strip() for caption in captions])


def read(encoder: T5EncoderModel, ids: torch.Tensor) -> torch.Tensor:
    """Texts as IF's pipeline hands them to its UNets: (B, WINDOW, width), what stands for padding included."""
    ids = ids.to(encoder.device)
    hidden: torch.Tensor = encoder(ids, attention_mask=ids.ne(PAD).long()).last_hidden_state
    return hidden


def base(sizes: Sizes) -> UNet2DConditionModel:
    """Noisy pictures (B, 3, 32, 32) to the predicted velocity, and as many channels of a variance."""
    # Attention at 16 x 16 would cost as much as all else: 77 places of text join the 256 of the picture.
    return _pixel_unet(sizes, SIZE // FACTOR, 3, sizes.base, reading=2)


def super_resolution(sizes: Sizes) -> UNet2DConditionModel:
    """Noisy pictures and, behind them, noised enlarged ones (B, 3 + 3, 128, 128), to velocity and variance.

    The level of the second noise is the class label, embedded as a timestep is.
    """
    # Half of the time goes by at the full size as it is: the way down leaves it at once.
    return _pixel_unet(sizes, SIZE, 6, sizes.super_resolution, reading=1, first=0, class_embed_type="timestep")


def _pixel_unet(
    sizes: Sizes, side: int, channels: int, widths: tuple[int, ...], reading: int, first: int = 1, **options: Any
) -> UNet2DConditionModel:
    """IF's UNet: the `reading` smallest sides attend to the text, the largest has `first` blocks on the way down."""
    above = len(widths) - reading
    # 0 behind the variance channels is halfway between the least and the largest variance, and there they stay: no loss
    # reaches them. IF's pipelines expect them.
    network: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=6,
        block_out_channels=widths,
        layers_per_block=(first, *(1,) * (len(widths) - 1)),
        down_block_types=("ResnetDownsampleBlock2D",) * above + ("SimpleCrossAttnDownBlock2D",) * reading,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",) * reading + ("ResnetUpsampleBlock2D",) * above,
        cross_attention_dim=sizes.t5_width,
        encoder_hid_dim=sizes.t5_width,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=sizes.t5_heads,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        time_embedding_act_fn="gelu",
        act_fn="gelu",
        norm_num_groups=sizes.pixel_groups,
        **options,
    )
    silence(network, ("conv2", "to_out.0", "conv_out"))
    return network


class Matches(NamedTuple):
    """As `CLIPModel` returns them: how near each picture is to each text (B, B), and the contrastive loss."""

    logits_per_image: torch.Tensor
    loss: torch.Tensor


class Reader(nn.Module):
    """A text encoder that learns beside a trained CLIP to name pictures: called as `CLIPModel` is.

    What IF's encoder was pretrained on, a web of text, is not had here; what it is wanted for, telling scenes apart, is
    learned from the scenes.
    """

    def __init__(self, text_encoder: T5EncoderModel, width: int, clip: CLIPModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        # In a list no parameter of the pictures' encoder is trained or saved with the text's.
        self._clip = [clip.eval().requires_grad_(False)]
        self.projection = nn.Linear(width, clip.visual_projection.out_features, bias=False)
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().clone())

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.text_encoder.device

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, return_loss: bool = False) -> Matches:
        """Token ids (B, length) and normalized pictures (B, 3, H, W) to their matches."""
        kept = input_ids.ne(PAD)
        hidden = self.text_encoder(input_ids, attention_mask=kept.long()).last_hidden_state * kept[..., None]
        text = F.normalize(self.projection(hidden.sum(dim=1) / kept.sum(dim=1, keepdim=True)), dim=-1)
        with torch.no_grad():
            seen = self._clip[0].to(self.device).get_image_features(pixel_values).pooler_output
        logits = self.logit_scale.exp() * F.normalize(seen, dim=-1) @ text.T
        right = torch.arange(len(logits), device=logits.device)
        return Matches(logits, (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2)


def schedule(largest: float) -> DDPMScheduler:
    """IF's cosine schedule with its thresholding at `largest`: 1.5 in its base, 1 above it.

    IF predicts the noise; this predicts velocity, from which colours are learned sooner: in the dark end of the cosine
    schedule the noise says nothing of the picture.
    """
    found: DDPMScheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=largest,
    )
    return found


def noising() -> DDPMScheduler:
    """What noises the smaller picture, as in IF."""
    found: DDPMScheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return found
