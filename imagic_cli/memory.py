"""The memory of the process: what the next step needs again stays, what nothing needs any more goes back."""

from __future__ import annotations

import ctypes
import gc
from functools import cache

import torch

# malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The largest that it accepts on 64 bits, and a step's worth of gradients and activations of a small denoiser.
_MAPPED_BYTES, _KEPT_BYTES = 32 << 20, 128 << 20


def keep_freed() -> None:
    """Let a training step use the memory of the one before it.

    Left to itself the GNU C library gives it back after a step and is given the same pages, each to be cleared, at the
    next: with the bundled model that is an eighth of a step of stage B. Does nothing with another C library.
    """
    if library := _gnu():
        library.mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if library := _gnu():
        library.malloc_trim(0)


@cache
def _gnu() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
