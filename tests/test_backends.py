"""What every backend must do, whatever the family."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from drive import done

from imagic_cli import backends
from imagic_cli.artifacts import Embeddings
from imagic_cli.backends.base import Backend, Draw
from imagic_cli.backends.source import find
from imagic_cli.config import FinetuneSettings, ModelSource, SamplingSettings
from imagic_cli.noise import Stream
from imagic_cli.precision import Precision
from imagic_cli.stages.objective import denoising_loss
from imagic_cli.tuning import initialise, leaves

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)
FAMILIES = ["sd", "sdv", "sdxl"]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, models: Path) -> Path:
    return models / str(request.param)


@pytest.fixture
def backend(folder: Path) -> Backend:
    return backends.load(find(ModelSource(source=str(folder))))


def hashes(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_sizes_come_from_the_models_own_config(backend: Backend) -> None:
    assert (backend.size, backend.multiple) == (32, 16)


def test_encode_gives_one_text_each_in_fp32_on_the_cpu(backend: Backend) -> None:
    first, again, null = backend.encode(["a dog", "a dog", None], CPU)
    assert first.embedding.tokens.shape[:2] == (1, 77)
    assert first.embedding.tokens.dtype == torch.float32
    assert not first.embedding.tokens.requires_grad
    torch.testing.assert_close(first.embedding.tokens, again.embedding.tokens, rtol=0, atol=0)
    assert not torch.equal(first.embedding.tokens, null.embedding.tokens)


def test_encode_says_what_falls_out_of_the_window(backend: Backend) -> None:
    # The toy tokenizer has a token per letter: 77 hold 75 letters between the two marks.
    fits, long = backend.encode(["a" * 75, "a" * 75 + "bcd"], CPU)
    assert fits.cut == ""
    assert long.cut.replace(" ", "") == "bcd"


def test_the_codec_knows_its_shapes(backend: Backend) -> None:
    codec = backend.codec(CPU)
    clean = codec.encode(torch.zeros(1, 3, 48, 32))
    assert clean.shape[1:] == codec.shape(32, 48) == (4, 6, 4)
    assert codec.decode(clean.expand(2, -1, -1, -1)).shape == (2, 3, 48, 32)


def test_only_a_trainable_level_takes_gradients(backend: Backend) -> None:
    frozen, trainable = backend.level(FP32, trainable=False), backend.level(FP32, trainable=True)
    assert not any(parameter.requires_grad for parameter in frozen.module.parameters())
    assert all(parameter.requires_grad for parameter in trainable.module.parameters())
    # Dropout would draw from a state that no step seeds.
    assert not any(part.training for part in trainable.module.modules())


@pytest.mark.parametrize("batch", [1, 3])
def test_the_loss_reaches_every_leaf(backend: Backend, batch: int) -> None:
    level = backend.level(FP32, trainable=True)
    e = backend.encode(["a dog"], CPU)[0].embedding.leaves()
    clean = backend.codec(CPU).encode(torch.rand(1, 3, 32, 32))
    loss = denoising_loss(level, clean, e, batch, Stream(0, "train").at(1), FP32)
    loss.backward()
    assert loss.shape == ()
    leaves = {**e.tensors(), **dict(level.module.named_parameters())}
    assert [name for name, leaf in leaves.items() if leaf.grad is None] == []


def test_a_lora_begins_as_no_change_and_is_all_that_takes_gradients(backend: Backend) -> None:
    level = backend.level(FP32, trainable=False)
    e = backend.encode(["a dog"], CPU)[0].embedding
    clean = backend.codec(CPU).encode(torch.rand(1, 3, 32, 32))
    plain = denoising_loss(level, clean, e, 1, Stream(0, "train").at(1), FP32)
    found = leaves(level.module, FinetuneSettings(method="lora", rank=2))
    initialise(found, Stream(0, "lora").at(0))
    loss = denoising_loss(level, clean, e, 1, Stream(0, "train").at(1), FP32)
    assert loss.item() == plain.item()
    loss.backward()
    assert {id(leaf) for leaf in found.values()} == {
        id(parameter) for parameter in level.module.parameters() if parameter.requires_grad
    }
    assert [name for name, leaf in found.items() if leaf.grad is None] == []
    blank = leaves(backend.blank(32, 32).level.module, FinetuneSettings(method="lora", rank=2))
    assert {name: leaf.shape for name, leaf in blank.items()} == {name: leaf.shape for name, leaf in found.items()}


def test_the_blank_has_the_shapes_of_the_real_thing(backend: Backend) -> None:
    blank = backend.blank(32, 48)
    e = backend.encode(["a dog"], CPU)[0].embedding
    assert {name: t.shape for name, t in blank.embedding.tensors().items()} == {
        name: t.shape for name, t in e.tensors().items()
    }
    assert blank.clean.shape[1:] == backend.codec(CPU).shape(32, 48)
    real = dict(backend.level(FP32, trainable=False).module.named_parameters())
    assert {name: p.shape for name, p in blank.level.module.named_parameters()} == {
        name: p.shape for name, p in real.items()
    }


def test_a_picture_is_the_same_alone_and_in_a_batch(backend: Backend) -> None:
    level = backend.level(FP32, trainable=False)
    first, second, null = (each.embedding for each in backend.encode(["a dog", "a cat", None], CPU))
    for scheduler in ("ddim", "euler-a"):
        sampling = SamplingSettings(steps=4, scheduler=scheduler)

        def draws(embedding: object, seed: int) -> Draw:
            noise = torch.randn(4, 4, 6, generator=Stream(seed, "sample").at(0))
            return Draw(embedding, noise, Stream(seed, "sampler").at(0))

        together = backend.render(level, [draws(first, 1), draws(second, 2)], null, sampling, FP32, lambda: None)
        alone = backend.render(level, [draws(second, 2)], null, sampling, FP32, lambda: None)
        torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(together[0], together[1])


def test_stage_a_changes_only_the_embedding_and_no_stage_touches_the_model(photo: Path, folder: Path) -> None:
    before = hashes(folder)
    done("edit", photo, "a bird", "--model", folder, "--run", "run", "--preset", "community", "--dry-run")
    done("optimize", photo, "a bird", "--model", folder, "--run", "run", "--steps", 3)
    found = Embeddings.load(Path("run/embeddings.safetensors")).content
    assert not torch.equal(found.optimized.tokens, found.target.tokens)
    assert not Path("run/weights.safetensors").exists()
    embeddings = Path("run/embeddings.safetensors").read_bytes()
    done("finetune", "--run", "run", "--steps", 3)
    done("generate", "--run", "run", "--steps", 2)
    assert Path("run/embeddings.safetensors").read_bytes() == embeddings
    assert hashes(folder) == before


def test_two_edits_in_one_process_do_not_influence_each_other(photo: Path, folder: Path) -> None:
    for run in ("alone", "second"):
        done("optimize", photo, "a bird", "--model", folder, "--run", run, "--steps", 3)
        done("finetune", "--run", run, "--steps", 3, "--lr", "1e-3")
        done("optimize", photo, "a cat", "--model", folder, "--run", f"between-{run}", "--steps", 2)
    for name in ("embeddings.safetensors", "weights.safetensors"):
        assert Path("alone", name).read_bytes() == Path("second", name).read_bytes()
