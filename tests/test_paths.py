"""Group 11: nothing outside the run directory is touched, whatever stands there and whatever things are called."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import specimen
from drive import done, imagic
from specimen import IMAGE, TEXT

BAIT = b"somebody else's"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def run(shared: Path, tmp_path: Path) -> Path:
    """A copy of a finished run; `outside` beside it holds files that must stay as they are."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(BAIT)
    (outside / ".x.tmp").write_bytes(BAIT)
    (outside / "x.safetensors").write_bytes(BAIT)
    return specimen.copy(specimen.make(shared), tmp_path / "run")


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def commands(run: Path, shared: Path) -> list[list[object]]:
    """Every command, so that each place is written or refused."""
    begin = ["optimize", shared / "photo-48.png", TEXT, "--model", shared / "models" / "sd", "--run", run]
    return [
        [*begin, "--steps", 2, "--force", "--checkpoint-every", 1],
        ["finetune", "--run", run, "--steps", 1, "--force", "--checkpoint-every", 1],
        ["generate", "--run", run, "--seeds", 2, "--prompt", "x", "--negative", "y"],
        ["generate", "--run", run, "--force"],
        ["status", run],
        ["check", run],
        ["clean", run],
    ]


def everything(run: Path, shared: Path) -> list[int]:
    """The exit codes of all commands, one after the other."""
    return [imagic(*command).code for command in commands(run, shared)]


FILES = [
    ".progress/finetune.safetensors",
    ".progress/optimize.safetensors",
    "embeddings.safetensors",
    "image.png",
    f"images/{IMAGE}.json",
    f"images/{IMAGE}.png",
    "logs/finetune.jsonl",
    "logs/optimize.jsonl",
    "samples.safetensors",
    "weights.safetensors",
]


@pytest.mark.parametrize("first", range(3))
def test_a_link_in_a_files_place_is_not_followed(first: int, run: Path, shared: Path) -> None:
    outside = run.parent / "outside"
    for number, name in enumerate(FILES, first):
        place = run / name
        place.unlink(missing_ok=True)
        match number % 3:
            case 0:
                place.symlink_to(outside / "file")
            case 1:
                place.symlink_to(outside / "nothing")
            case _:
                place.hardlink_to(outside / "file")
    before = contents(outside)
    codes = everything(run, shared)
    assert contents(outside) == before
    # What hung on the first embeddings is stale, and check says so.
    assert codes == [0, 0, 0, 0, 0, 4, 0]
    assert not any((run / name).is_symlink() for name in FILES)


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_link_in_the_records_place_is_no_record(kind: str, run: Path, shared: Path) -> None:
    outside, record = run.parent / "outside", run / "run.json"
    record.unlink()
    (record.symlink_to if kind == "symbolic" else record.hardlink_to)(outside / "file")
    assert everything(run, shared) == [4] * 7
    assert (outside / "file").read_bytes() == BAIT


@pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard"])
def test_a_link_in_the_locks_place_is_refused(kind: str, run: Path, shared: Path) -> None:
    outside, lock = run.parent / "outside", run / ".lock"
    lock.unlink()
    if kind == "hard":
        lock.hardlink_to(outside / "file")
    else:
        lock.symlink_to(outside / ("file" if kind == "symbolic" else "nothing"))
    before = contents(outside)
    codes = everything(run, shared)
    assert contents(outside) == before
    assert codes == [3, 3, 3, 3, 0, 0, 3]


@pytest.mark.parametrize(
    ("name", "refused"), [(".progress", 0), ("logs", 0), ("variants", 2), ("images", 3), ("texts", 2)]
)
def test_a_link_in_a_folders_place_is_refused(name: str, refused: int, run: Path, shared: Path) -> None:
    outside = run.parent / "outside"
    shutil.rmtree(run / name)
    (run / name).symlink_to(outside)
    (outside / "below").mkdir()
    (outside / "below" / ".y.tmp").write_bytes(BAIT)
    before = contents(outside)
    result = imagic(*commands(run, shared)[refused])
    assert (result.code, name in result.err) == (3, True), result.err
    for command in ("clean", "check", "status"):
        assert imagic(command, run).code in {0, 4}
    assert contents(outside) == before


def test_a_link_in_the_runs_own_place_is_refused(run: Path, shared: Path) -> None:
    link = run.parent / "link"
    link.symlink_to(run.parent / "outside")
    before = contents(run.parent / "outside")
    begin = ["optimize", shared / "photo-48.png", TEXT, "--model", shared / "models" / "sd", "--run", link]
    result = imagic(*begin, "--steps", 1)
    assert (result.code, "link" in result.err) == (3, True), result.err
    for command in ("finetune", "generate"):
        assert imagic(command, "--run", link).code == 4
    for command in ("check", "clean", "status"):
        assert imagic(command, link).code == 4
    assert contents(run.parent / "outside") == before


def test_output_replaces_a_link_and_leaves_what_it_led_to(run: Path) -> None:
    bait = run.parent / "outside" / "file"
    for name, make in (("soft.png", Path.symlink_to), ("hard.png", Path.hardlink_to)):
        place = run.parent / name
        make(place, bait)
        refused = imagic("generate", "--run", run, "-o", place)
        assert (refused.code, f"{name} is another file" in refused.err) == (2, True)
        done("generate", "--run", run, "-o", place, "--force")
        assert place.read_bytes() == (run / "images" / f"{IMAGE}.png").read_bytes()
        assert not place.is_symlink()
    assert bait.read_bytes() == BAIT


@pytest.mark.parametrize("content", [b"", b"\0\n", b"x" * 300, b"\xff\xfe\n", b"a\nb\nc\n", b"/" * 5000])
def test_a_strange_pointer_is_no_run(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".imagic-run").write_bytes(content)
    result = imagic("status")
    assert result.code in {2, 4}
    assert len(result.err.splitlines()) <= 3


def test_a_linked_pointer_is_neither_read_nor_followed(run: Path, tmp_path: Path) -> None:
    pointer = tmp_path / ".imagic-run"
    pointer.symlink_to(tmp_path / "outside" / "file")
    result = imagic("status")
    assert result.code == 2
    assert BAIT.decode() not in result.err
    done("generate", "--run", run)
    assert not pointer.is_symlink()
    assert (tmp_path / "outside" / "file").read_bytes() == BAIT


@pytest.mark.parametrize(
    "name",
    ["../up.png", "a\nb.png", "'; rm -rf ~.png", "%s{}.png", "x" * 251 + ".png", "é\u202e.png", "\udcff.png", "-.png"],
)
def test_a_pictures_name_stays_a_name(name: str, shared: Path, tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    os.chdir(inside)
    photo = Path(os.fsdecode(os.fsencode(name)))
    shutil.copy(shared / "photo-48.png", photo)
    result = done("optimize", f"./{photo}", TEXT, "--model", shared / "models" / "sd", "--steps", 1)
    (line,) = result.lines
    assert Path(line).parent == Path("runs")
    assert line.isascii()
    beside = {path.name for path in inside.iterdir()} - {photo.name}
    assert beside == {"runs", ".imagic-run"}
    assert {path.name for path in inside.parent.iterdir()} <= {"inside", "up.png"}
    done("status")


@pytest.mark.parametrize("text", ["../../../x", "a\nb", "x" * 5000, "é\u202e\U0001f600", "a\0b"])
def test_a_text_stays_a_text(text: str, run: Path) -> None:
    before = contents(run.parent / "outside")
    done("generate", "--run", run, "--prompt", text, "--negative", f"{text} not")
    found = {path for path in run.parent.rglob("*") if path.is_file()}
    assert all(
        path.is_relative_to(run) or path.is_relative_to(run.parent / "outside")
        for path in found - {Path(".imagic-run").absolute()}
    )
    assert contents(run.parent / "outside") == before
    assert imagic("check", run).code == 0


@pytest.mark.parametrize("name", ["a\nb", " a ", "é", "x" * 255])
def test_a_runs_name_is_kept_to_the_letter(name: str, shared: Path, tmp_path: Path) -> None:
    specimen.copy(specimen.make(shared), tmp_path / name)
    done("generate", "--run", name)
    told = done("generate")
    assert told.out == f"{Path(name) / 'images' / IMAGE}.png\n"


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "a/" * 2100, "\udcff"])
@pytest.mark.parametrize("place", ["run", "output", "image", "model", "config"])
def test_an_impossible_name_is_told(name: str, place: str, run: Path, shared: Path, tmp_path: Path) -> None:
    photo, model = shared / "photo-48.png", shared / "models" / "sd"
    places: dict[str, tuple[list[object], set[int]]] = {
        "run": (["generate", "--run", name], {2}),
        "output": (["generate", "--run", run, "-o", f"{name}.png"], {2}),
        # The argument parser refuses a NUL by itself.
        "image": (["edit", name, TEXT, "--model", model, "-o", "new.png"], {2, 3}),
        "model": (["optimize", photo, TEXT, "--model", name], {2, 9}),
        "config": (["optimize", photo, TEXT, "--model", model, "--config", name, "--steps", -1], {2}),
    }
    command, codes = places[place]
    before = contents(run)
    result = imagic(*command)
    assert result.code in codes, result.err
    assert len(result.err.splitlines()) == 1
    assert contents(run) == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640)])
def test_files_honour_the_umask(mask: int, mode: int, run: Path, shared: Path) -> None:
    shutil.rmtree(run)
    before = os.umask(mask)
    try:
        codes = everything(run, shared)
        done("generate", "--run", run, "-o", run.parent / "copy.png")
    finally:
        os.umask(before)
    assert set(codes) == {0}
    made = [path for path in [*run.rglob("*"), run.parent / "copy.png"] if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in made} == {oct(mode)}


SHORT = ("--optimize-steps", 1, "--finetune-steps", 1, "--steps", 1)


def test_an_output_takes_no_place_in_another_run_nor_a_scene(photo: Path, models: Path) -> None:
    for run in ("one", "two"):
        done("edit", photo, "a bird", "--model", models / "sd", "--run", run, *SHORT)
    done("scene", "a red bird on grass", "scene.png")
    kept = Path("scene.png").read_bytes()
    for place, told in (("one/images/eta-0.700_seed-0000.png", "is inside the run"), ("scene.png", "is another file")):
        result = imagic("generate", "--run", "two", "-o", place)
        assert (result.code, told in result.err) == (2, True), result.err
    assert Path("scene.png").read_bytes() == kept and imagic("check", "one").code == 0
    for _ in range(2):
        done("generate", "--run", "two", "-o", "mine.png")
