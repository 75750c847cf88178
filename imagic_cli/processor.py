"""Which processor this is, as far as the bits of a result, and how fast its kernels are, depend on it."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

import torch


@cache
def maker() -> str:
    """Who made it, in its own words; what kind it is, where the system names neither of the two that make x86."""
    # On Linux `platform` does not know.
    told = Path("/proc/cpuinfo")
    text = told.read_text(encoding="utf-8") if told.exists() else platform.processor()
    found = re.search("GenuineIntel|AuthenticAMD", text)
    return found[0] if found else platform.machine()


def width() -> str:
    """The widest instructions that torch's kernels take here, such as AVX2 and AVX512."""
    return torch.backends.cpu.get_cpu_capability()


def is_halved() -> bool:
    """Whether torch's own products leave half of the width unused: Intel's library takes no AVX-512 on AMD's."""
    return maker() == "AuthenticAMD" and width().startswith("AVX512")
