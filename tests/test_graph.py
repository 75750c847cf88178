"""A graphed step is the eager one: what it is made of on any machine, the graph itself on a CUDA device."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from drive import done, stopped
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagic_cli import backends
from imagic_cli.backends.source import find
from imagic_cli.config import How, ModelSource, TrainSettings
from imagic_cli.fit import fit
from imagic_cli.graph import Graphed, is_graphed
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision
from imagic_cli.scale import Scale
from imagic_cli.stages import training
from imagic_cli.stages.objective import Drawn, denoising_loss, draw
from imagic_cli.updates import Updates

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FP32 = Precision("fp32", CPU)
SETTINGS = TrainSettings(steps=1, learning_rate=1e-3)


class Ungraphed(Graphed[Drawn]):
    """The same pass, run instead of captured and replayed."""

    def __call__(self, generator: torch.Generator) -> Tensor:
        self._forget()
        return self.differentiate(self.draw(generator))


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
        drawn = partial(draw, level, clean, 1)
        # A power of two changes the last bit of no number.
        updates = Updates(
            leaves, partial(torch.optim.Adam, lr=1e-2, fused=True), Scale(dtype, CPU) if graphed else None
        )

        def loss(drawn: Drawn, e: object = e) -> Tensor:
            return denoising_loss(level, clean, e, drawn, FP32)

        def eager(generator: torch.Generator, loss: object = loss, drawn: object = drawn) -> Tensor:
            return loss(drawn(generator))

        def differentiate(drawn: Drawn, loss: object = loss, updates: Updates = updates) -> Tensor:
            return updates.differentiate(loss(drawn))

        objective = Ungraphed(drawn, differentiate, leaves) if graphed else eager
        steps = list(fit(updates, objective, 5, Stream(0, "train")))
        found.append((steps, e.tokens.detach().clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Kernels that give the same bits twice."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        yield


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("family", "method"), [("sd", "full"), ("sd", "lora"), ("sdv", "kv"), ("sdxl", "full"), ("cascade", "full")]
)
def test_a_graph_changes_no_bit(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, family: str, method: str
) -> None:
    captured: list[Graphed[Drawn]] = []
    capture = Graphed._capture

    def counted(graphed: Graphed[Drawn], drawn: Drawn) -> torch.cuda.CUDAGraph:
        captured.append(graphed)
        return capture(graphed, drawn)

    monkeypatch.setattr(Graphed, "_capture", counted)
    flags = ["--steps", 8, "--dtype", dtype, "--device", "cuda", "--probe-every", 4]
    for run in ("graphed", "eager"):
        if run == "eager":
            monkeypatch.setattr(training, "is_graphed", lambda *_: False)
        done("optimize", photo, "a bird", "--model", models / family, "--run", run, *flags)
        done("finetune", "--run", run, *flags, "--method", method, "--lr", "1e-3", "--delta-dtype", "fp32")
    assert len(captured) == (3 if family == "cascade" else 2)
    made = sorted(path.relative_to("graphed") for path in Path("graphed").rglob("*.safetensors"))
    made += sorted(path.relative_to("graphed") for path in Path("graphed").rglob("logs/*"))
    assert len(made) == 2 * len(captured)
    for path in made:
        assert Path("graphed", path).read_bytes() == Path("eager", path).read_bytes(), path


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("repeatable")
def test_a_resumed_graph_goes_on_as_an_undisturbed_one(photo: Path, models: Path) -> None:
    flags = ["--model", models / "sd", "--steps", 6, "--dtype", "fp16", "--device", "cuda", "--checkpoint-every", 3]
    done("optimize", photo, "a bird", "--run", "whole", *flags)
    command = ["optimize", photo, "a bird", "--run", "resumed", *flags]
    stopped(4, *command)
    done(*command)
    assert Path("whole/embeddings.safetensors").read_bytes() == Path("resumed/embeddings.safetensors").read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
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
