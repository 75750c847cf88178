"""What can happen to the files of a run: cut, longer, another run's, edited by hand, under another's name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import specimen

from imagic_cli.record import signed as signed_record

Damage = Callable[[Path], object]
Case = tuple[str, str, Damage]


def damages(folder: Path) -> Iterator[Case]:
    """Every kind of damage but single bits: what it is, the file that must be named, and how it is done to a run."""
    usual = specimen.make(folder)
    places = {kind: str(specimen.place(usual, kind).relative_to(usual)) for kind in specimen.FILES}
    # Made when a case of theirs is done: a sample needs few of them.
    others = {
        "another picture": lambda: specimen.make(folder, "picture", side=40),
        "another text": lambda: specimen.make(folder, "text", text="a bear"),
        "another seed": lambda: specimen.make(folder, "seed", seed=1),
    }
    for kind, name in places.items():
        for part in (0.0, 0.1, 0.5, 0.99):
            yield (
                f"{kind} cut to {part:.0%}",
                name,
                _rewritten(name, lambda data, part=part: data[: int(len(data) * part)]),
            )
        yield f"{kind} without its last byte", name, _rewritten(name, lambda data: data[:-1])
        yield f"{kind} with a byte more", name, _rewritten(name, lambda data: data + b"\0")
        yield f"{kind} with a line end more", name, _rewritten(name, lambda data: data + b"\n")
        yield f"{kind} of zeros", name, _rewritten(name, lambda data: bytes(len(data)))
    for what, other in others.items():
        for kind in ("embeddings", "weights", "progress", "samples"):
            yield f"{kind} of a run with {what}", places[kind], _taken(places[kind], other)
    for kind in ("picture", "record"):
        yield f"{kind} of another run", places[kind], _taken(places[kind], others["another text"])
    yield "image.png of another run", "image.png", _taken("image.png", others["another picture"])
    yield "run.json of another run", "embeddings", _taken("run.json", others["another text"])
    yield from _edits(places)


def _edits(places: dict[str, str]) -> Iterator[Case]:
    def edited(change: Callable[[dict], object], signed: bool) -> Damage:
        def damage(run: Path) -> None:
            path = run / "run.json"
            content = json.loads(path.read_bytes())
            change(content)
            if signed:
                del content["digest"]
                path.write_bytes(signed_record(content))
            else:
                path.write_text(json.dumps(content, indent=2) + "\n")

        return damage

    yield "run.json with another text", "run.json", edited(lambda run: run.update(text="x"), signed=False)
    yield "run.json with other steps", "run.json", edited(lambda run: run["optimize"].update(steps=9), signed=False)
    yield "run.json without its digest", "run.json", edited(lambda run: run.pop("digest"), signed=False)
    yield "run.json of another version", "run.json", edited(lambda run: run.update(version=9), signed=True)
    yield "run.json with a name more", "run.json", edited(lambda run: run.update(more=1), signed=True)
    # Signed again, so that only what hangs on the value can tell.
    for part, stale in (("optimize", "embeddings"), ("finetune", "weights"), ("generate", "samples")):
        change = edited(lambda run, part=part: run[part].update(steps=9), signed=True)
        yield f"signed run.json with other {part} steps", places[stale], change
    yield "signed run.json with another text", places["embeddings"], edited(lambda run: run.update(text="x"), True)
    yield "signed run.json of another model", places["embeddings"], edited(lambda run: run.update(identity="x"), True)
    yield "signed run.json, other size", places["samples"], edited(lambda run: run["image"].update(width=64), True)
    for kind, other in (
        ("embeddings", "weights"),
        ("weights", "samples"),
        ("samples", "text"),
        ("progress", "weights"),
    ):
        yield f"{other} under the name of {kind}", places[kind], _renamed(places[other], places[kind])
    yield (
        "a text under another's name",
        "texts/0123456789.safetensors",
        _renamed(places["text"], "texts/0123456789.safetensors"),
    )
    yield (
        "B's progress under A's name",
        ".progress/optimize.safetensors",
        _renamed(places["progress"], ".progress/optimize.safetensors"),
    )
    yield "an image under another eta", "images/eta-0.900_seed-0000.png", _image_renamed
    yield (
        "an artifact of another schema",
        places["weights"],
        _rewritten(places["weights"], lambda data: data.replace(b'\\"schema\\":1', b'\\"schema\\":2', 1)),
    )


def _rewritten(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda run: (run / name).write_bytes(change((run / name).read_bytes()))


def _taken(name: str, other: Callable[[], Path]) -> Damage:
    return lambda run: (run / name).write_bytes((other() / name).read_bytes())


def _renamed(source: str, name: str) -> Damage:
    return lambda run: (run / name).write_bytes((run / source).read_bytes())


def _image_renamed(run: Path) -> None:
    for suffix in (".png", ".json"):
        source = run / "images" / f"{specimen.IMAGE}{suffix}"
        source.rename(source.with_name(f"eta-0.900_seed-0000{suffix}"))
