"""What stage B trains, and what of it is kept: every weight of the denoiser, the text's alone, or a LoRA beside them.

Where pictures attend to the text, its keys and values are the only weights that meet it: training them alone (Kumari et
al., 2023) leaves the rest of the denoiser, and what it does without a text, as they are.

A LoRA (Hu et al., 2021) leaves a weight W as it is and adds the product of two thin matrices to it: W + B A, with A of
shape (rank, in) and B of shape (out, rank). Its published scale alpha / rank is 1 here: alpha == rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from imagic_cli.config import FinetuneSettings

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""How the names of A and of B end, as in peft."""

_ADAPTER = "default"
# Attention's projections. There the text meets the picture, which is what stage B is about; they are where LoRA was
# published to work, what diffusers' own training scripts adapt, and what other tools read. The last two are the text's
# where a family projects it apart (DeepFloyd IF).
_TEXT = ("attn2.to_k", "attn2.to_v", "add_k_proj", "add_v_proj")
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"]


def leaves(module: nn.Module, settings: FinetuneSettings) -> dict[str, Tensor]:
    """What of a denoiser is trained, by name; the rest of it is frozen.

    Args:
        module: the denoiser. LoRA is put into it, in place, with values that are not set yet: see `initialise`.
        settings: method and rank.

    Returns:
        Every parameter, or those of the text's keys and values, or for LoRA fp32 leaves named 'layer.lora_A.weight' and
        'layer.lora_B.weight'; on the module's device, which may be the meta device.
    """
    if settings.rank is not None:
        return _inject(module, settings.rank)
    found: dict[str, Tensor] = {
        name: parameter
        for name, parameter in module.named_parameters()
        if settings.method == "full" or name.rpartition(".")[0].endswith(_TEXT)
    }
    module.requires_grad_(False)
    for parameter in found.values():
        parameter.requires_grad_(True)
    return found


@torch.no_grad()
def initialise(found: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """Set a LoRA to no change at all, in place: A as peft draws it (Kaiming, uniform), B zero.

    Args:
        found: what `leaves` gave for LoRA.
        generator: on the CPU; it alone decides the values.
    """
    for name, leaf in sorted(found.items()):
        if name.endswith(UP):
            leaf.zero_()
        else:
            # Drawn on the CPU, so that every device starts from the same values.
            drawn = torch.empty(leaf.shape, dtype=torch.float32)
            leaf.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))


def changes(stored: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """What stage B's result adds to each weight: (parameter's name, fp32 tensor of its shape, on the device).

    Args:
        stored: one level's deltas, or the factors of its LoRA; products are made one at a time, for they are large.
        device: where they are wanted.
    """
    for name, tensor in stored.items():
        if name.endswith(DOWN):
            layer = name.removesuffix(DOWN)
            yield f"{layer}.weight", stored[layer + UP].to(device).float() @ tensor.to(device).float()
        elif not name.endswith(UP):
            yield name, tensor.to(device).float()


def _inject(module: nn.Module, rank: int) -> dict[str, Tensor]:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_ATTENTION)
    # Without memory at first: else peft would draw values from a state that no seed of ours decides.
    inject_adapter_in_model(config, module, _ADAPTER, low_cpu_mem_usage=True)
    found: dict[str, Tensor] = {}
    for layer, part in module.named_modules():
        if isinstance(part, LoraLayer):
            device = next(part.base_layer.parameters()).device
            for ending, factors in ((DOWN, part.lora_A), (UP, part.lora_B)):
                factor = factors[_ADAPTER]
                assert isinstance(factor, nn.Linear)
                # In fp32 whatever the frozen weights are in.
                factor.weight = nn.Parameter(torch.empty_like(factor.weight, dtype=torch.float32, device=device))
                found[layer + ending] = factor.weight
    return found
