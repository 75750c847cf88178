"""What the process holds on to, and what it gives back."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from drive import done, stopped

from imagic_cli.artifacts import Loaded, Progress, Weights
from imagic_cli.backends.latent import LatentBackend
from imagic_cli.cli import ENVIRONMENT
from imagic_cli.fit import Step
from imagic_cli.stages import training

STEP = """
import sys, torch
from imagic_cli.memory import keep_freed, release

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages // 256

if sys.argv[1] == "kept":
    keep_freed()
before = resident()
tensors = [torch.ones(5 << 20) for _ in range(5)]
del tensors
after = resident()
release(torch.device("cpu"))
print(after - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to the GNU C library")
def test_what_a_step_freed_is_kept_for_the_next_until_it_is_released() -> None:
    held = {}
    for how in ("left", "kept"):
        found = subprocess.run([sys.executable, "-c", STEP, how], check=True, capture_output=True, text=True)
        held[how] = [int(each) for each in found.stdout.split()]
    # Of 100 MiB.
    assert held["left"][0] < 20
    assert held["kept"][0] > 80
    assert held["kept"][1] < 20


def test_sampling_holds_no_second_copy_of_what_was_trained(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.picture(48).save(tmp_path / "bird.png")
    run = tmp_path / "run"
    done("optimize", tmp_path / "bird.png", "a bird", "--model", models / "sd", "--run", run, "--steps", 1)
    done("finetune", "--run", run, "--steps", 1)
    load, render = Weights.load, LatentBackend.render
    read: list[weakref.ref[torch.Tensor]] = []
    held = []

    def loaded(path: Path) -> Loaded[Weights]:
        found = load(path)
        read.extend(weakref.ref(each) for each in found.content.deltas.values())
        return found

    def rendered(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        held.append(sum(each() is not None for each in read))
        return render(*arguments, **options)

    monkeypatch.setattr(Weights, "load", loaded)
    monkeypatch.setattr(LatentBackend, "render", rendered)
    done("generate", "--run", run)
    assert read
    assert held == [0]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux which files are in memory")
def test_resuming_holds_no_second_copy_of_the_progress(
    models: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("optimize", photo, "a bird", "--model", models / "sd", "--run", "run", "--steps", 1)
    command = ["finetune", "--run", "run", "--steps", 3, "--checkpoint-every", 1]
    stopped(2, *command)
    each, fit = Progress.each, training.fit
    read: list[weakref.ref[torch.Tensor]] = []
    held, mapped = [], []

    def counted(path: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
        for part, name, value in each(path):
            held.append(sum(tensor() is not None for tensor in read))
            read.append(weakref.ref(value))
            yield part, name, value

    def looked(*arguments: Any) -> Iterator[Step]:
        mapped.append(".progress/finetune.safetensors" in Path("/proc/self/maps").read_text())
        return fit(*arguments)

    monkeypatch.setattr(Progress, "each", counted)
    monkeypatch.setattr(training, "fit", looked)
    done(*command)
    assert len(read) > 100
    assert max(held) <= 2
    assert mapped == [False]


@pytest.mark.parametrize(("before", "after"), [(None, ENVIRONMENT), ("0", dict.fromkeys(ENVIRONMENT, "0"))])
def test_the_command_sets_what_torch_reads_at_its_import_unless_told_otherwise(
    before: str | None, after: dict[str, str]
) -> None:
    script = (
        "import atexit, json, os, sys; from imagic_cli.cli import ENVIRONMENT, main;"
        "sys.argv = ['imagic', '--version'];"
        "atexit.register(lambda: print(json.dumps([{name: os.environ[name] for name in ENVIRONMENT},"
        " 'torch' in sys.modules]))); main()"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    environment |= {} if before is None else dict.fromkeys(ENVIRONMENT, before)
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    # And before torch is there, which reads it once.
    assert json.loads(found.stdout.splitlines()[-1]) == [after, False]
