"""Group 13: one .safetensors checkpoint in the original layout."""

from __future__ import annotations

import errno
import pickle  # noqa: TID251 - to plant one
import shutil
from pathlib import Path

import original
import pytest
from diffusers import StableDiffusionPipeline
from drive import done
from refusals import Planted, edit_json, optimize, pixels, refused
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file


@pytest.mark.parametrize("suffix", ["bin", "ckpt", "pt", "pth", "pkl"])
def test_a_pickled_checkpoint_is_refused_unread(suffix: str, photo: Path, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps(Planted()))
    refused(optimize(photo, path), f"model.{suffix} is a pickle, which can run code", "convert")
    path = path.rename(tmp_path / "model.safetensors")
    refused(optimize(photo, path, "--config", tmp_path))
    assert not Path("ran").exists()


def test_one_original_checkpoint_gives_the_folders_images(photo: Path, models: Path, tmp_path: Path) -> None:
    folder = models / "sd"
    one = original.checkpoint(folder, tmp_path / "one.safetensors")
    for run, flags in (("one", [one, "--config", folder]), ("folder", [folder])):
        assert optimize(photo, *flags, run=run).code == 0
        done("finetune", "--run", run, "--steps", 2, "--lr", 1e-3)
        done("generate", "--run", run, "--steps", 2)
    assert pixels("one") == pixels("folder")
    # Other configs make another model of the same file.
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    edit_json(other / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    result = optimize(photo, one, "--config", other, run="one")
    assert (result.code, "model changed" in result.err) == (4, True), result.err


def test_a_file_that_is_no_checkpoint(photo: Path, models: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(b"no")
    refused(optimize(photo, path, "--config", models / "sd"), "one.safetensors is not a checkpoint")
    save_file({"x": next(iter(load_file(models / "sd" / "unet/diffusion_pytorch_model.safetensors").values()))}, path)
    refused(optimize(photo, path, "--config", models / "sd"), "one.safetensors is not a checkpoint")
    refused(optimize(photo, path, "--config", tmp_path), "has no model_index.json", "--config")
    refused(optimize(photo, path), "one.safetensors")
    (tmp_path / "one.txt").write_text("x")
    refused(optimize(photo, tmp_path / "one.txt"), "is not a .safetensors checkpoint")
    assert not any((tmp_path / name).exists() for name in ("run", "ran"))


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_a_checkpoint_that_is_not_whole_is_refused(prefix: str, photo: Path, models: Path, tmp_path: Path) -> None:
    one = original.checkpoint(models / "sd", tmp_path / "one.safetensors")
    tensors = load_file(one)
    del tensors[max(name for name in tensors if name.startswith(prefix))]
    save_file(tensors, one)
    refused(optimize(photo, one, "--config", models / "sd"), "one.safetensors is not a checkpoint for these configs")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nothing was converted yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "imagic" / "checkpoints"


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("call", "error", "code", "part"),
    [
        ("save_pretrained", OSError(errno.ENOSPC, "No space left on device"), 6, "No space left on device; free some"),
        ("save_pretrained", SafetensorError(FULL), 6, "os error 28"),
        ("save_pretrained", MemoryError(), 8, "out of memory while one.safetensors"),
        ("from_single_file", MemoryError(), 8, "out of memory while one.safetensors"),
        ("from_single_file", RuntimeError("DefaultCPUAllocator: can't allocate memory"), 8, "out of memory"),
        ("from_single_file", RuntimeError("size mismatch"), 9, "one.safetensors is not a checkpoint for these configs"),
    ],
)
def test_what_the_machine_lacks_is_not_blamed_on_the_file(
    call: str,
    error: Exception,
    code: int,
    part: str,
    photo: Path,
    models: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = original.checkpoint(models / "sd", tmp_path / "one.safetensors")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(StableDiffusionPipeline, call, refuse)
    result = optimize(photo, one, "--config", models / "sd")
    assert (result.code, part in result.err) == (code, True), result.err
    assert len(result.err.splitlines()) <= 3
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_what_a_killed_conversion_left_is_removed(photo: Path, models: Path, tmp_path: Path, cache: Path) -> None:
    one = original.checkpoint(models / "sd", tmp_path / "one.safetensors")
    (cache / ".converting-x" / "model").mkdir(parents=True)
    assert optimize(photo, one, "--config", models / "sd").code == 0
    (folder,) = (path for path in cache.iterdir() if path.name != ".lock")
    assert (folder / "model_index.json").is_file()
