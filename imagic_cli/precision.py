"""Which device works, and in which number format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagic_cli.errors import MemoryShortError, UsageError
from imagic_cli.processor import maker, width

_SMALL = 100_000_000
_SHORT = ("allocate memory", "out of memory")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda, cuda:N, mps) means here.

    Raises:
        UsageError: this machine or this build of torch does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    present = {
        "cpu": index == "",
        "mps": index == "" and torch.backends.mps.is_available(),
        "cuda": (index or "0").isdecimal() and int(index or 0) < torch.cuda.device_count(),
    }
    if not present.get(kind, False):
        raise UsageError(f"no device '{name}' here", "use --device auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and index:
        # torch's own operations go where their tensors are, other kernels to the current device.
        torch.cuda.set_device(int(index))
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> str:
    """The number format that `name` (auto, fp32, bf16, fp16) means on `device`.

    On CUDA, auto is fp16: beside bf16 it keeps three more bits of a fine-tuned weight's small change. Elsewhere fp32.
    """
    if name != "auto":
        return name
    return "fp16" if device.type == "cuda" else "fp32"


@dataclass(frozen=True)
class Precision:
    """How the denoiser computes. What is trained stays in fp32 all the same.

    Attributes:
        name: fp32, bf16 or fp16.
        device: where.
    """

    name: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The format of the denoiser's weights and of what it is given."""
        return DTYPES[self.name]


def placed(denoiser: Any, device: torch.device) -> Any:
    """`denoiser` on `device`, its convolutions in the order of memory that is fastest there."""
    # Channels last makes a step of a network of ten million weights a tenth faster on a processor; one of Stable
    # Diffusion's size it does not. On a GPU it is the order that half precision's convolutions work in: a step of A is
    # a fifth faster there. (Not by a trial at each start: the order decides the last bits.)
    if device.type == "cuda" or (device.type == "cpu" and is_small(denoiser)):
        return denoiser.to(device, memory_format=torch.channels_last)
    return denoiser.to(device)


def is_small(denoiser: nn.Module) -> bool:
    """Whether what its operations cost by their number shows beside what they compute."""
    return sum(p.numel() for p in denoiser.parameters()) < _SMALL


def ready_attention(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Where a few dozen steps are made: attention by kernels that are there, not by one that cuDNN builds for 3 s."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def environment(device: torch.device) -> dict[str, str]:
    """What the bits of a result depend on besides its settings."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    threads = str(torch.get_num_threads())
    # That of a GPU's machine too: it draws the noise.
    processor = f"{maker()} {width()}"
    return {"torch": torch.__version__, "threads": threads, "device": device.type, "processor": processor} | gpu


def is_short(error: BaseException) -> bool:
    """Whether it says that memory could not be had."""
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in _SHORT)
    )


@contextlib.contextmanager
def memory_errors(saving: str) -> Iterator[None]:
    """Tell an allocation failure as a `MemoryShortError` that names the options in `saving`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_short(error):
            raise
        raise MemoryShortError("out of memory", f"progress is kept; try {saving}") from error
