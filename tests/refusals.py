"""What the tests of models share: the command, how it refuses, and a pickle that tells whether it was read."""

from __future__ import annotations

import json
from pathlib import Path

from drive import Result, imagic
from specimen import TEXT


def optimize(photo: Path, model: object, *flags: object, run: str = "run") -> Result:
    return imagic("optimize", photo, TEXT, "--model", model, "--run", run, "--steps", 1, *flags)


def refused(result: Result, *parts: str) -> None:
    assert result.code == 9, result.err
    assert [line.startswith("imagic: ") for line in result.err.splitlines()][-1:] == [True]
    assert result.err.count("imagic: ") == 1
    assert all(part in result.err for part in parts), result.err


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pixels(run: str) -> str:
    record = json.loads(next(Path(run).rglob("eta-*.json")).read_text())
    return str(record["pixels"])


class Planted:
    """Whoever unpickles it makes the file `ran`."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path("ran").absolute(),)
