"""Write a toy in the layout of the original Stable Diffusion checkpoints: one file, other names."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}


def checkpoint(folder: Path, path: Path) -> Path:
    """The weights of a folder in diffusers layout as one file; its UNet has one layer a block."""
    tensors: dict[str, Tensor] = {}
    for component, prefix, name in (
        ("unet", "model.diffusion_model.", _unet_name),
        ("vae", "first_stage_model.", _vae_name),
        ("text_encoder", "cond_stage_model.transformer.", _text_name),
    ):
        (file,) = (folder / component).glob("*.safetensors")
        for key, tensor in load_file(file).items():
            # The original's attention in the VAE is made of 1 x 1 convolutions.
            square = component == "vae" and ".attentions." in key and tensor.ndim == 2
            tensors[prefix + name(key)] = (tensor[..., None, None] if square else tensor).contiguous()
    save_file(tensors, path)
    return path


def _text_name(key: str) -> str:
    return key if key.startswith("text_model.") else f"text_model.{key}"


def _unet_name(key: str) -> str:
    for name, original in _UNET.items():
        key = re.sub(rf"^{re.escape(name)}\.", f"{original}.", key)
    place = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.", key)
    if place:
        side, block, part, layer = place[1], int(place[2]), place[3], int(place[4])
        # One layer a block going down, and so one more going up.
        number = 1 + 2 * block + layer + (part == "downsamplers") if side == "down" else 2 * block + layer
        number += part == "upsamplers"
        # The toy's first block going up has no attention, so its upsampler comes right after the resnet.
        slot = {"resnets": "0.", "attentions": "1.", "downsamplers": "0.", "upsamplers": "1."}[part]
        key = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{slot}{key[place.end() :]}"
        if part == "downsamplers":
            key = key.replace(".conv.", ".op.")
        if part == "attentions":
            return key
    if ".transformer_blocks." in key:
        return key
    for name, original in _RESNET.items():
        key = key.replace(f".{name}.", f".{original}.")
    return key


def _vae_name(key: str) -> str:
    for name, original in _VAE.items():
        key = key.replace(name, original)
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    # Counted from the picture's side in the original.
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{3 - int(found[1])}.block.", key)
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda found: f"up.{3 - int(found[1])}.upsample.", key)
