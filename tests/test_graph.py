"""A graphed step is the eager one: what it is made of on any machine, the graph itself on a CUDA device."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from drive import done, stopped
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagic_cli import backends, fusion
from imagic_cli.backends.source import find
from imagic_cli.config import How, ModelSource, TrainSettings
from imagic_cli.fit import fit
from imagic_cli.graph import Graphed, is_graphed
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision
from imagic_cli.scale import Scale
from imagic_cli.stages import generate, training
from imagic_cli.stages.objective import Drawn, denoising_loss, draw
from imagic_cli.updates import Updates

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FP32 = Precision("fp32", CPU)
SETTINGS = TrainSettings(steps=1, learning_rate=1e-3)


class Ungraphed(Graphed[Drawn]):
    """The same pass, run instead of captured and replayed."""

    def __call__(self, drawn: Drawn) -> Tensor:
        self._forget()
        return self.updates.differentiate(self.loss(drawn))


def test_a_step_is_graphed_on_cuda_where_no_memory_is_to_be_saved() -> None:
    assert is_graphed(CUDA, SETTINGS, How())
    assert not is_graphed(CPU, SETTINGS, How())
    assert not is_graphed(torch.device("mps"), SETTINGS, How())
    assert not is_graphed(CUDA, SETTINGS, How(gradient_checkpointing=True))
    assert not is_graphed(CUDA, SETTINGS.model_copy(update={"optimizer": "adam8bit"}), How())


@pytest.mark.parametrize(("family", "name"), [("sd", "base"), ("sdxl", "base"), ("cascade", "sr16-32")])
def test_a_draw_can_be_copied_into_the_place_of_another(models: Path, family: str, name: str) -> None:
    backend = backends.load(find(ModelSource(source=str(models / family))))
    level = backend.level(FP32, False, name)
    e = backend.encode(["a dog"], CPU)[0].embedding
    clean = backend.codec(CPU, name).encode(torch.rand(1, 3, 32, 32))
    place, other = (draw(level, clean, 2, Stream(0, "train").at(step)) for step in (1, 2))
    before, wanted = (denoising_loss(level, clean, e, drawn, FP32) for drawn in (place, other))
    for old, new in zip(place.tensors(), other.tensors(), strict=True):
        old.copy_(new)
    assert before != wanted == denoising_loss(level, clean, e, place, FP32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_loss_that_is_differentiated_already_makes_the_same_updates(models: Path, dtype: torch.dtype) -> None:
    backend = backends.load(find(ModelSource(source=str(models / "sd"))))
    target = backend.encode(["a dog"], CPU)[0].embedding
    level, clean = backend.level(FP32, False), torch.rand(1, 4, 4, 4)
    found = []
    for graphed in (False, True):
        e = target.leaves()
        leaves = list(e.tensors().values())
        # A power of two changes the last bit of no number.
        updates = Updates(
            leaves, partial(torch.optim.Adam, lr=1e-2, fused=True), Scale(dtype, CPU) if graphed else None
        )

        def loss(drawn: Drawn, e: object = e) -> Tensor:
            return denoising_loss(level, clean, e, drawn, FP32)

        objective = Ungraphed(loss, leaves, updates, lambda: None) if graphed else loss
        steps = list(fit(updates, partial(draw, level, clean, 1), objective, 5, Stream(0, "train")))
        found.append((steps, e.tokens.detach().clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Kernels that give the same bits twice."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        yield


CASES = [("sd", "full"), ("sd", "lora"), ("sdv", "kv"), ("sdxl", "full"), ("cascade", "full")]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def edited(photo: Path, model: Path, method: str, dtype: str, run: str) -> dict[Path, Path]:
    """What stages A and B leave in a run, by where."""
    flags = ["--steps", 8, "--dtype", dtype, "--device", "cuda", "--probe-every", 4]
    done("optimize", photo, "a bird", "--model", model, "--run", run, *flags)
    done("finetune", "--run", run, *flags, "--method", method, "--lr", "1e-3", "--delta-dtype", "fp32")
    made = [*Path(run).rglob("*.safetensors"), *Path(run).rglob("logs/*")]
    return {path.relative_to(run): path for path in sorted(made)}


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each pass that is captured, whether it is a fused one."""
    found: list[bool] = []
    fused = Graphed._fused

    def watched(graphed: Graphed[Drawn]) -> object:
        step = fused(graphed)
        found.append(step is not None)
        return step

    monkeypatch.setattr(Graphed, "_fused", watched)
    return found


@needs_cuda
@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_graph_changes_no_bit(
    photo: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    captured: list[bool],
    dtype: str,
    family: str,
    method: str,
) -> None:
    monkeypatch.setattr(fusion, "is_there", lambda: False)
    graphed = edited(photo, models / family, method, dtype, "graphed")
    assert captured == [False] * (3 if family == "cascade" else 2)
    monkeypatch.setattr(training, "is_graphed", lambda *_: False)
    eager = edited(photo, models / family, method, dtype, "eager")
    assert len(graphed) == 2 * len(captured)
    assert graphed.keys() == eager.keys()
    for name, path in graphed.items():
        assert path.read_bytes() == eager[name].read_bytes(), name


def losses(run: dict[Path, Path]) -> list[float]:
    logs = [path for path in run.values() if path.parent.name == "logs"]
    lines = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    return [line.get("loss", line.get("probe")) for line in lines]


@needs_cuda
@pytest.mark.skipif(not fusion.is_there(), reason="needs Triton")
@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("family", "method"), CASES)
def test_fused_graphs_make_the_steps_of_torchs_own_kernels(
    photo: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    captured: list[bool],
    dtype: str,
    family: str,
    method: str,
) -> None:
    fused = edited(photo, models / family, method, dtype, "fused")
    assert captured == [True] * (3 if family == "cascade" else 2)
    again = edited(photo, models / family, method, dtype, "again")
    assert all(path.read_bytes() == again[name].read_bytes() for name, path in fused.items())
    monkeypatch.setattr(training, "is_graphed", lambda *_: False)
    eager = edited(photo, models / family, method, dtype, "eager")
    within = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 3e-3}[dtype]
    assert losses(fused) == pytest.approx(losses(eager), rel=within)


@needs_cuda
@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("stage", ["optimize", "finetune"])
def test_a_resumed_graph_goes_on_as_an_undisturbed_one(photo: Path, models: Path, stage: str) -> None:
    flags = ["--steps", 6, "--dtype", "fp16", "--device", "cuda", "--checkpoint-every", 3]
    for run in ("whole", "resumed"):
        first = ["optimize", photo, "a bird", "--run", run, "--model", models / "sd", *flags]
        command = first if stage == "optimize" else ["finetune", "--run", run, *flags, "--lr", "1e-3"]
        if stage == "finetune":
            done(*first)
        if run == "resumed":
            stopped(4, *command)
        done(*command)
    name = {"optimize": "embeddings", "finetune": "weights"}[stage]
    assert Path(f"whole/{name}.safetensors").read_bytes() == Path(f"resumed/{name}.safetensors").read_bytes()


@needs_cuda
@pytest.mark.parametrize("family", ["sd", "sdxl", "cascade"])
def test_graphed_passes_sample_the_images_of_the_denoiser(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    done("optimize", photo, "a bird", "--model", models / family, "--run", "run", "--steps", 2, "--device", "cuda")
    found = []
    for graphed in (True, False):
        if not graphed:
            monkeypatch.setattr(generate, "are_passes_replayed", lambda *_: False)
        done("generate", "--run", "run", "--eta", 0.7, "--seeds", 3, "--batch-size", 2, "--steps", 6, "--force")
        found.append([np.asarray(Image.open(path)).astype(int) for path in sorted(Path("run/images").glob("*.png"))])
    assert len(found[0]) == len(found[1]) >= 3
    assert max(np.abs(one - other).max() for one, other in zip(*found, strict=True)) <= 3


@needs_cuda
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_eight_bit_moments_are_resumed_as_they_were(photo: Path, models: Path, dtype: str) -> None:
    flags = ["--steps", 6, "--dtype", dtype, "--device", "cuda", "--checkpoint-every", 3]
    flags += ["--optimizer", "adam8bit", "--lr", "1e-3"]
    for run in ("whole", "resumed"):
        done("optimize", photo, "a bird", "--model", models / "sd", "--run", run, "--steps", 2, "--device", "cuda")
    done("finetune", "--run", "whole", *flags)
    stopped(4, "finetune", "--run", "resumed", *flags)
    done("finetune", "--run", "resumed", *flags)
    assert Path("whole/weights.safetensors").read_bytes() == Path("resumed/weights.safetensors").read_bytes()
