"""Models of the real classes, in the real folder layout, small enough to train in a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.deepfloyd_if.safety_checker import IFSafetyChecker
from diffusers.pipelines.deepfloyd_if.watermark import IFWatermarker
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)


def tokenizer(folder: Path, window: int = 77) -> CLIPTokenizer:
    """A CLIP tokenizer whose vocabulary is single bytes: no trained merges."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=window)


def text_config(words: int, width: int = 32, projection: int = 32) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=projection,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )


def clip(folder: Path) -> Path:
    """A whole CLIP with its tokenizer and image processor, 32 px."""
    torch.manual_seed(0)
    words = tokenizer(folder)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = text_config(len(words)).to_dict()
    config = CLIPConfig(text_config=text, vision_config=vision | {"image_size": 32, "patch_size": 16}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(folder)
    return folder


def vae(scaling: float = 0.18215) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=scaling,
    )


def schedule(prediction: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def unet(width: int, **extra: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
        **extra,
    )


def stable_diffusion(folder: Path, prediction: str = "epsilon", seed: int = 0, scaling: float = 0.18215) -> Path:
    """Stable Diffusion 1.x (epsilon) or 2.x (v_prediction): 32 px pictures, f = 8, 4 x 4 x 4 latents."""
    torch.manual_seed(seed)
    words = tokenizer(folder / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=vae(scaling),
        text_encoder=CLIPTextModel(text_config(len(words))),
        tokenizer=words,
        unet=unet(32),
        scheduler=schedule(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def stable_diffusion_xl(folder: Path, seed: int = 0) -> Path:
    """SDXL: two text encoders of different width, pooled embedding, time ids."""
    torch.manual_seed(seed)
    words = tokenizer(folder / "tokenizer")
    pipeline = StableDiffusionXLPipeline(
        vae=vae(0.13025),
        text_encoder=CLIPTextModel(text_config(len(words))),
        text_encoder_2=CLIPTextModelWithProjection(text_config(len(words), 16, 24)),
        tokenizer=words,
        tokenizer_2=tokenizer(folder / "tokenizer_2"),
        unet=unet(
            48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
        ),
        scheduler=schedule("epsilon"),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer whose vocabulary is single letters: a token each, and one before each word."""
    letters = sorted({chr(code) for code in range(33, 127)})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in letters)]
    extra = [(f"<extra_id_{number}>", 0.0) for number in range(99, -1, -1)]
    return T5Tokenizer(vocab=[*pieces, *extra], model_max_length=512)


def t5(words: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=words,
            d_model=32,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def pixel_unet(side: int, channels: int, **extra: object) -> UNet2DConditionModel:
    """IF's blocks: learned variance, attention over text and pixels together, the text's mean in the time embedding."""
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=6,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        time_embedding_act_fn="gelu",
        act_fn="gelu",
        norm_num_groups=4,
        **extra,
    )


def pixel_schedule(largest: float) -> DDPMScheduler:
    """As IF's scheduler configs have it; `largest` is where thresholding cuts."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=largest,
    )


def cascade(folder: Path, seed: int = 0) -> Path:
    """DeepFloyd IF in one folder: 16 px, super-resolution to 32 px, an upscaler to 64 px; no safety checker."""
    torch.manual_seed(seed)
    words = t5_tokenizer()
    plain = {"safety_checker": None, "feature_extractor": None, "watermarker": None, "requires_safety_checker": False}
    base = IFPipeline(
        tokenizer=words,
        text_encoder=t5(len(words)),
        unet=pixel_unet(16, 3),
        scheduler=pixel_schedule(1.5),
        **plain,
    )
    base.save_pretrained(folder / "base")
    # Published with a text encoder of its own, which is the base's: nothing may read it.
    above = IFSuperResolutionPipeline(
        tokenizer=None,
        text_encoder=None,
        unet=pixel_unet(32, 6, class_embed_type="timestep", mid_block_scale_factor=1.414),
        scheduler=pixel_schedule(1.0),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        **plain,
    )
    above.save_pretrained(folder / "super-resolution")
    upscaler(folder / "upscaler")
    return folder


def upscaler(folder: Path) -> Path:
    """Stable Diffusion's upscaler, with a VAE of f = 2."""
    words = tokenizer(folder / "tokenizer")
    codec = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.08333,
    )
    denoiser = UNet2DConditionModel(
        sample_size=32,
        in_channels=7,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=4,
        num_class_embeds=1000,
    )
    pipeline = StableDiffusionUpscalePipeline(
        vae=codec,
        text_encoder=CLIPTextModel(text_config(len(words), 24)),
        tokenizer=words,
        unet=denoiser,
        low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02),
        scheduler=schedule("v_prediction"),
    )
    pipeline.save_pretrained(folder)
    return folder


def add_if_screening(folder: Path, flags_everything: bool) -> None:
    """IF's safety checker, whose verdict does not depend on the picture, and a watermark of one colour."""
    torch.manual_seed(3)
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8, "projection_dim": 16}
    checker = IFSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    for head in (checker.p_head, checker.w_head):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, 0.0)
    torch.nn.init.constant_(checker.p_head.bias, 1.0 if flags_everything else 0.0)
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder / "feature_extractor")
    marker = IFWatermarker()
    marker.watermark_image[...] = torch.tensor([0.0, 255.0, 0.0, 255.0])
    marker.save_pretrained(folder / "watermarker")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["deepfloyd_if", "IFSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["watermarker"] = ["deepfloyd_if", "IFWatermarker"]
    (folder / "model_index.json").write_text(json.dumps(index))


def add_safety_checker(folder: Path, flags_everything: bool) -> None:
    """A safety checker with random features, whose thresholds flag every picture, or none."""
    torch.manual_seed(3)
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8, "projection_dim": 16}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    # A cosine lies in [-1, 1]: no picture is under the one threshold, and none over the other.
    threshold = -2.0 if flags_everything else 2.0
    checker.concept_embeds_weights.fill_(threshold)
    checker.special_care_embeds_weights.fill_(threshold)
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))


def picture(side: int) -> Image.Image:
    """A gradient and a disc: no two rows are alike."""
    y, x = np.mgrid[0:side, 0:side] / side
    disc = (x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.08
    pixels = np.stack([x, y, 1 - x], axis=-1)
    pixels[disc] = (0.9, 0.2, 0.1)
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
