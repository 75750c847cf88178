"""What is known of the processor is what the system says of it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from imagic_cli import processor
from imagic_cli.errors import ArtifactError
from imagic_cli.precision import Precision, environment
from imagic_cli.processor import is_halved, maker
from imagic_cli.stages.checkpoints import check_environment


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "Path", lambda _: file)
    monkeypatch.setattr(processor, "maker", maker.__wrapped__)
    return file


@pytest.mark.parametrize(
    ("told", "width", "halved"),
    [
        ("GenuineIntel", "AVX512", False),
        ("GenuineIntel", "AVX2", False),
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("x86_64", "AVX512", False),
    ],
)
def test_width_is_left_unused_where_amd_has_avx_512(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: Path, told: str, width: str, halved: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "processor", lambda: f"Intel64 Family 6 Model 158 Stepping 10, {told}")
    assert (processor.maker(), is_halved()) == (told, halved)
    monkeypatch.setattr(platform, "processor", lambda: "")
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {told}\n", encoding="utf-8")
    assert (processor.maker(), is_halved()) == (told, halved)


def test_another_kind_is_told_by_what_it_is(monkeypatch: pytest.MonkeyPatch, cpuinfo: Path) -> None:
    cpuinfo.write_text("BogoMIPS\t: 50.00\n", encoding="utf-8")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor.maker() == "aarch64"


def test_a_results_environment_names_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment(torch.device("cpu"))
    assert found["processor"] == f"{maker()} {torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    assert environment(torch.device("cuda", 1)) == found | {"device": "cuda", "gpu": "card 1"}


def test_work_that_does_not_name_its_processor_is_of_an_unknown_one() -> None:
    device = torch.device("cpu")
    now = environment(device)
    before = {name: value for name, value in now.items() if name != "processor"}
    with pytest.raises(ArtifactError, match=f"began elsewhere \\(processor unknown -> {now['processor']}\\)"):
        check_environment(before, Precision("fp32", device), True, lambda _: None)
