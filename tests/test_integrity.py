"""Groups 7 and 8, a sample: damage is seen, told with code 4, and repaired where nothing is lost by it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import specimen
import torch
import toys
from drive import digests, done, imagic
from reliability_integrity import bit_flips, damaged, headers

from imagic_cli import container, png
from imagic_cli.container import peek, read
from imagic_cli.errors import ArtifactError
from imagic_cli.stamps import Stamp


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def untold(_count: int) -> None:
    pass


def test_bit_flips_are_seen(shared: Path) -> None:
    outcome = bit_flips(72, shared, untold)
    assert outcome.passed, outcome.failures


def test_every_other_damage_is_seen(shared: Path) -> None:
    outcome = damaged(12, shared, untold)
    assert outcome.done == 12
    assert outcome.passed, outcome.failures


def test_no_header_does_harm(shared: Path) -> None:
    outcome = headers(300, shared, untold)
    assert outcome.passed, outcome.failures


@pytest.mark.parametrize("kind", sorted(specimen.readers(Path())))
def test_check_and_the_next_stage_refuse_a_flipped_bit(kind: str, shared: Path, tmp_path: Path) -> None:
    run = specimen.copy(specimen.make(shared), tmp_path / "run")
    prepare, command = specimen.readers(run)[kind]
    prepare()
    path = specimen.place(run, kind)
    content = bytearray(path.read_bytes())
    # In the pixels, the last tensor, or a hash.
    content[-20] ^= 4
    path.write_bytes(content)
    before = digests(run)
    for arguments in (["check", run], command):
        result = imagic(*arguments)
        assert (result.code, path.name in result.err) == (4, True), result.err
        assert len(result.err.splitlines()) <= 3
    assert digests(run) == before


@pytest.mark.parametrize("kind", ["picture", "record"])
@pytest.mark.parametrize("position", [30, -8])
def test_a_damaged_image_is_drawn_again_from_its_sample(kind: str, position: int, shared: Path, tmp_path: Path) -> None:
    whole = specimen.make(shared)
    run = specimen.copy(whole, tmp_path / "run")
    path = specimen.place(run, kind)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    result = imagic("check", run)
    assert (result.code, path.name in result.err) == (4, True), result.err
    done("generate", "--run", run)
    assert digests(run) == digests(whole)


def test_a_whole_run_is_said_to_be_whole(shared: Path) -> None:
    assert "every file with a checksum is as it was written" in done("check", specimen.make(shared)).err


PLACES = [
    "baselines/sdedit/strength-0.500_seed-0000.png",
    "ablations/optimize.png",
    "ablations/optimize-00003/weights.safetensors",
    "ablations/optimize-00003/run.json",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_beside_the_edit_itself_is_seen(place: str, shared: Path, tmp_path: Path) -> None:
    whole = specimen.make(shared)
    run = specimen.copy(whole, tmp_path / "run")
    specimen.copy(whole, run / "ablations" / "optimize-00003")
    (run / "baselines" / "sdedit").mkdir(parents=True)
    png.save(run / PLACES[0], toys.picture(48), "", {"strength": "0.500", "seed": 0, "key": "x"})
    toys.picture(48).save(run / PLACES[1])
    done("check", run)
    content = bytearray((run / place).read_bytes())
    content[-20] ^= 4
    (run / place).write_bytes(content)
    result = imagic("check", run)
    assert (result.code, str(run / place) in result.err) == (4, True), result.err


def test_force_replaces_a_corrupt_artifact_by_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    whole = specimen.make(shared)
    run = specimen.copy(whole, tmp_path / "run")
    (run / "embeddings.safetensors").write_bytes(b"\0" * 100)
    (run / ".progress" / "optimize.safetensors").unlink()
    assert imagic("optimize", "--run", run).code == 4
    done("optimize", "--run", run, "--force")
    assert (run / "embeddings.safetensors").read_bytes() == (whole / "embeddings.safetensors").read_bytes()


@pytest.mark.parametrize("size", [0, 4, 8, 100])
def test_a_stub_is_no_artifact(size: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x40" + bytes(size)[1:] if size else b"")
    for look in (peek, read):
        with pytest.raises(ArtifactError, match="corrupt"):
            look(path, "weights")


@pytest.mark.parametrize("kind", ["embeddings", "weights", "samples", "run.json"])
def test_what_may_not_be_read_is_not_called_corrupt(
    kind: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = specimen.copy(specimen.make(shared), tmp_path / "run")
    path = specimen.place(run, kind)
    access, content = os.access, Path.read_bytes

    def read_bytes(each: Path) -> bytes:
        if each == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return content(each)

    # Root may read everything.
    monkeypatch.setattr(os, "access", lambda each, mode: each != path and access(each, mode))
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    for command in (["check", run], ["status", run], ["generate", "--run", run]):
        result = imagic(*command)
        assert (result.code, f"{path} cannot be read: permission denied; mend" in result.err) == (6, True), result.err
        assert "corrupt" not in result.err


def test_large_tensors_have_the_digest_of_small_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tensors = {f"{place}": torch.full((64, place), place, dtype=torch.float32) for place in range(5)}
    stamp = Stamp("weights", "finetune", {}, {})
    digests = []
    for large in (0, 64 * 4 * 3, 1 << 30):
        monkeypatch.setattr(container, "_LARGE", large)
        digests.append(container.write(tmp_path / "file", stamp, tensors))
        assert container.read(tmp_path / "file", "weights")[2] == digests[-1]
    assert len(set(digests)) == 1
