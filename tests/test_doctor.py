"""`imagic doctor`."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest
import torch
from drive import done

from imagic_cli.doctor import findings


def told() -> dict[str, str]:
    return {finding.topic: finding.advice for finding in findings()}


def test_it_tells_every_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    topics = [json.loads(line)["topic"] for line in done("doctor", "--json").lines]
    assert topics[:2] == ["versions", "device"]
    assert {"dtype", "memory", "free disk here", "model cache", "own cache", "offline flags"} <= set(topics)
    assert told()["offline flags"] == ""
    assert "device" in done("doctor").out


def test_offline_flags_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "--model" in told()["offline flags"]


def test_a_full_disk_and_little_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: shutil._ntuple_diskusage(100, 99, 1))
    monkeypatch.setattr("os.sysconf", lambda _name: 4096)
    assert "--run" in told()["free disk here"]
    assert "15 GB" in told()["memory"]


def test_a_torchvision_of_another_build_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "0.26.0+cu130" if n == "torchvision" else real(n))
    monkeypatch.setattr("torch.__version__", "2.13.0+cpu")
    assert "uninstall" in told()["torchvision"]
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "0.26.0+cpu" if n == "torchvision" else real(n))
    assert "torchvision" not in told()


@pytest.mark.parametrize(("gain", "told_so"), [(8.4, True), (2.0, False)])
def test_a_processor_with_fast_half_precision_is_told(
    monkeypatch: pytest.MonkeyPatch, gain: float, told_so: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("imagic_cli.plan.product_rate", lambda _, dtype: gain if dtype == torch.bfloat16 else 1.0)
    assert ("8 times as fast in bf16" in told()["dtype"]) == told_so


def test_a_gpu_that_torch_does_not_use_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "CUDA build" in told()["device"]


@pytest.mark.parametrize("fused", [True, False])
def test_a_gpu_is_told_of_with_its_memory_and_its_kernels(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    monkeypatch.setattr("imagic_cli.precision.pick_device", lambda _name: torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (16e9, 24e9))
    monkeypatch.setattr("imagic_cli.fusion.is_there", lambda: fused)
    assert "--gradient-checkpointing" in told()["GPU memory"]
    assert ("triton" in told()["GPU kernels"]) is not fused
