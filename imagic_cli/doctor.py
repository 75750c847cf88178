"""What this machine offers, and what on it is known to go wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagic_cli.backends.digests import cache_folder

if TYPE_CHECKING:
    import torch

_NEEDS = ("torch", "diffusers", "transformers", "safetensors", "pillow")
_FULL_TUNING = 15.2e9
_ROOM = 21e9
# In the shape of Stable Diffusion 1.x a step of stage B is one and a half times as fast where products are eight times.
_FASTER = 3.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what.
        value: how it is.
        advice: what to do about it; empty where it is well.
    """

    topic: str
    value: str
    advice: str = ""


def findings() -> list[Finding]:
    """Look at device, number format, torch, memory, disk, caches, offline flags, and known bad combinations."""
    return [_python(), *_device(), _memory(), _disk(), *_caches(), *_offline(), *_combinations()]


def _python() -> Finding:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _NEEDS]
    return Finding("versions", f"Python {platform.python_version()}, {', '.join(versions)}")


def _device() -> list[Finding]:
    import torch

    from imagic_cli import fusion
    from imagic_cli.precision import pick_device, pick_dtype

    device = pick_device("auto")
    advice = ""
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        build = torch.version.cuda or "none"
        advice = f"there is an NVIDIA GPU that this torch (CUDA: {build}) does not use: install torch's CUDA build"
    found = [Finding("device", f"{device}, {torch.get_num_threads()} threads", advice)]
    found.append(Finding("dtype", pick_dtype("auto", device), _half_precision(device)))
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        short = "full tuning of Stable Diffusion needs about 17 GB: --gradient-checkpointing, --optimizer adam8bit"
        found.append(
            Finding("GPU memory", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free", short if free < 17e9 else "")
        )
        fused = fusion.is_there()
        slow = "install triton and a C compiler: half-precision steps take a quarter less time with them"
        found.append(Finding("GPU kernels", "ours and torch's" if fused else "torch's", "" if fused else slow))
    return found


def _half_precision(device: torch.device) -> str:
    import torch

    from imagic_cli.plan import product_rate

    if device.type != "cpu":
        return ""
    gain = product_rate(device, torch.bfloat16) / product_rate(device, torch.float32)
    if gain < _FASTER:
        return ""
    return f"products are {gain:.0f} times as fast in bf16 here: try --dtype bf16 with a large model"


def _memory() -> Finding:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    advice = "" if pages >= _FULL_TUNING else "full tuning of Stable Diffusion on the CPU needs about 15 GB"
    return Finding("memory", f"{pages / 1e9:.1f} GB", advice)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    advice = (
        ""
        if free >= _ROOM
        else "stage B of Stable Diffusion needs 21 GB while it replaces a checkpoint: name a roomier --run"
    )
    return Finding("free disk here", f"{free / 1e9:.1f} GB", advice)


def _caches() -> list[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    found = []
    for topic, folder in (("model cache", Path(HF_HUB_CACHE)), ("own cache", cache_folder())):
        above = next(each for each in (folder, *folder.parents) if each.exists())
        advice = "" if os.access(above, os.W_OK) else "it cannot be written: set HF_HOME or XDG_CACHE_HOME"
        found.append(Finding(topic, str(folder), advice))
    return found


def _offline() -> list[Finding]:
    names = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE") if os.environ.get(name)]
    advice = "models are not downloaded: unset them, or name folders with --model" if names else ""
    return [Finding("offline flags", ", ".join(names) or "none", advice)]


def _combinations() -> list[Finding]:
    import torch

    found = []
    try:
        vision = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        vision = ""
    if vision and ("+cpu" in vision) != ("+cpu" in torch.__version__):
        found.append(Finding("torchvision", vision, f"built for another torch than {torch.__version__}: uninstall it"))
    if os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "").startswith("backend:cudaMallocAsync"):
        found.append(Finding("CUDA allocator", "cudaMallocAsync", "memory that is given back stays taken: unset it"))
    return found
