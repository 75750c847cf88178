"""Number formats: what is computed in them, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from drive import done, stopped
from PIL import Image

from imagic_cli import backends
from imagic_cli.artifacts import Embeddings, Weights
from imagic_cli.backends.source import find
from imagic_cli.config import ModelSource
from imagic_cli.container import verify
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision, pick_device, pick_dtype
from imagic_cli.stages.objective import denoising_loss, draw

CPU = torch.device("cpu")
TEXT = "a bird spreading wings"


def test_a_small_step_vanishes_in_half_precision_and_not_in_fp32() -> None:
    # Why master weights are fp32: 1500 steps of the paper's rate on weights of an ordinary size.
    weights = torch.randn(10_000, generator=Stream(0, "test").at(0)) * 0.05
    moved = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        leaf = weights.to(dtype, copy=True)
        for _ in range(1500):
            leaf -= torch.tensor(5e-7, dtype=dtype)
        moved[dtype] = (leaf != weights.to(dtype)).float().mean().item()
    assert moved[torch.float32] == 1
    assert moved[torch.float16] < 0.1
    assert moved[torch.bfloat16] < 0.02


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(("family", "name"), [("sd", "base"), ("sdxl", "base"), ("cascade", "sr16-32")])
def test_the_network_computes_in_half_precision_and_the_loss_does_not(
    models: Path, dtype: str, family: str, name: str
) -> None:
    precision = Precision(dtype, CPU)
    backend = backends.load(find(ModelSource(source=str(models / family))))
    level = backend.level(precision, False, name)
    seen = []
    level.module.mid_block.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    e = backend.encode([TEXT], CPU)[0].embedding.leaves()
    clean = backend.codec(CPU, name).encode(torch.zeros(1, 3, 32, 32))
    loss = denoising_loss(level, clean, e, draw(level, clean, 1, Stream(0, "train").at(1)), precision)
    loss.backward()
    assert seen == [precision.dtype]
    assert {loss.dtype, e.tokens.grad.dtype} == {torch.float32}
    assert {parameter.dtype for parameter in level.module.parameters()} == {precision.dtype}
    # What masters are taken from.
    trainable = backend.level(precision, True, name).module
    assert {parameter.dtype for parameter in trainable.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_every_stage_runs_in_half_precision_and_keeps_fp32_masters(
    photo: Path, models: Path, dtype: str, family: str
) -> None:
    flags = ["--run", "run", "--dtype", dtype]
    done("optimize", photo, TEXT, "--model", models / family, *flags, "--steps", 4)
    done("finetune", *flags, "--steps", 4, "--delta-dtype", "fp32", "--lr", "5e-7")
    done("generate", *flags, "--steps", 3)
    record = json.loads(Path("run/run.json").read_text())
    assert record["optimize"]["dtype"] == record["finetune"]["dtype"] == dtype
    found = Embeddings.load(Path("run/embeddings.safetensors")).content
    assert found.optimized.tokens.dtype == torch.float32
    deltas = Weights.load(Path("run/weights.safetensors")).content.deltas
    moved = torch.cat([delta.flatten() for delta in deltas.values()]).abs()
    # A master in half precision could not hold steps of 5e-7.
    assert 0 < moved.max() < 1e-5
    image = np.asarray(Image.open(next(Path("run").rglob("eta-*.png"))))
    assert image.std() > 0


def test_fp16_scales_its_loss_and_the_scale_is_part_of_the_progress(photo: Path, models: Path) -> None:
    flags = ["--model", models / "sd", "--run", "run", "--dtype", "fp16", "--steps", 6, "--checkpoint-every", 3]
    stopped(4, "optimize", photo, TEXT, *flags)
    stamp = verify(Path("run/.progress/optimize.safetensors"), "progress")
    assert stamp.extra["step"] == 3
    assert stamp.extra["scaler"]["scale"] > 1
    done("optimize", photo, TEXT, *flags)
    resumed = Path("run/embeddings.safetensors").read_bytes()
    done("optimize", photo, TEXT, "--model", models / "sd", "--run", "whole", "--dtype", "fp16", "--steps", 6)
    assert Path("whole/embeddings.safetensors").read_bytes() == resumed


def test_auto_is_fp32_on_this_cpu_and_fp16_on_cuda() -> None:
    assert pick_dtype("auto", pick_device("cpu")) == "fp32"
    assert pick_dtype("auto", torch.device("cuda")) == "fp16"
    assert pick_dtype("bf16", torch.device("cuda")) == "bf16"


@pytest.mark.parametrize(
    ("family", "level", "method", "dtype"),
    [
        ("sd", "base", "full", "fp16"),
        ("sd", "base", "lora", "bf16"),
        ("sdxl", "base", "kv", "fp16"),
        ("cascade", "sr16-32", "full", "bf16"),
    ],
)
def test_half_precision_resumes_and_recomputes_to_the_same_bits(
    photo: Path, models: Path, family: str, level: str, method: str, dtype: str
) -> None:
    flags = ["--steps", 6, "--dtype", dtype, "--checkpoint-every", 3, "--probe-every", 3]
    tune = ["--method", method, "--lr", 1e-3, "--delta-dtype", "fp32", *(["--level", level] if level != "base" else [])]
    for run, more in (("plain", []), ("less", ["--gradient-checkpointing"]), ("resumed", [])):
        commands = (
            ["optimize", photo, TEXT, "--model", models / family, "--run", run, *flags, *more],
            ["finetune", "--run", run, *flags, *more, *tune],
        )
        for command in commands:
            if run == "resumed":
                stopped(4, *command)
            done(*command)
    made = sorted(path.relative_to("plain") for path in Path("plain").rglob("*.safetensors"))
    assert len(made) == 2
    for path in made:
        assert Path("plain", path).read_bytes() == Path("less", path).read_bytes() == Path("resumed", path).read_bytes()


def test_gradient_checkpointing_changes_no_bit(photo: Path, models: Path) -> None:
    for run, flags in (("plain", []), ("less", ["--gradient-checkpointing"])):
        done("optimize", photo, TEXT, "--model", models / "sd", "--run", run, "--steps", 3, *flags)
        done("finetune", "--run", run, "--steps", 3, *flags)
    for name in ("embeddings.safetensors", "weights.safetensors"):
        assert Path("plain", name).read_bytes() == Path("less", name).read_bytes()
