"""Whether the files of a run are as they were written: every one that can tell is read whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from imagic_cli import png
from imagic_cli.container import peek, read
from imagic_cli.errors import ArtifactError, ImagicError, InputError
from imagic_cli.inspection import sampling_of, states, variants
from imagic_cli.names import part, picture_name, variant_name
from imagic_cli.record import Record
from imagic_cli.run import Run
from imagic_cli.stamps import Stamp


def problems(run: Run) -> list[str]:
    """What is not as it was written: artifacts, pictures, figures and records, and every link between them.

    The runs within it are looked at as well. Logs, tables, plots and pages carry nothing to check them by.

    Raises:
        ArtifactError: there is no readable run.json to check against.
    """
    found = _problems(run)
    for inner in run.inner():
        try:
            found += _problems(inner)
        except ArtifactError as error:
            found.append(str(error))
    return found


def _problems(run: Run) -> list[str]:
    record = run.read_record()
    found = [str(problem) for problem in _artifact_problems(run, record)]
    stale = [state for state in states(run) if state.condition == "stale"]
    found += [
        f"{state.path} is stale ({state.detail})"
        for state in stale
        if not any(problem.startswith(f"{state.path} is stale") for problem in found)
    ]
    for variant in variants(run):
        found += [str(problem) for problem in _image_problems(run, variant)]
    return found + [str(problem) for problem in _figure_problems(run)]


def _artifact_problems(run: Run, record: Record) -> Iterator[ImagicError]:
    yield from _failures(run.read_image)
    embeddings = _digest_of(run.embeddings_file, "embeddings")
    wanted = {"optimize": (run.embeddings_file, record.optimize_stamp())}
    for level in record.levels():
        wanted[part("finetune", level)] = run.weights_file(level), record.finetune_stamp(embeddings, level)
    for path, stamp in wanted.values():
        if path.exists():
            yield from _failures(_verify_work, path, stamp.kind, stamp)
    for path in sorted((run.path / ".progress").glob("*.safetensors")):
        _path, stamp = wanted.get(path.stem, wanted["optimize"])
        yield from _failures(_verify_work, path, "progress", stamp)
    for path in sorted((run.path / "texts").glob("*.safetensors")):
        yield from _failures(_verify_text, run, record, path)
    for variant in variants(run):
        path = run.sample_folder(variant) / "samples.safetensors"
        if path.exists():
            yield from _failures(_verify_samples, record, variant, path)


def _image_problems(run: Run, variant: str) -> Iterator[ImagicError]:
    folder = run.sample_folder(variant)
    try:
        key = peek(folder / "samples.safetensors", "samples")[0].key
    except ArtifactError:
        # Told already, or the images of a call that was killed before it saved its samples.
        key = None
    for path in sorted((folder / "images").glob("eta-*.png")):
        yield from _failures(_verify_image, path, key)
    sheet = folder / "images" / "sheet.png"
    if sheet.exists():
        yield from _failures(png.check_whole, sheet)


def _figure_problems(run: Run) -> Iterator[ImagicError]:
    for path in sorted((run.path / "baselines").glob("*/*.png")):
        yield from _failures(png.verify, path)
    for path in sorted((run.path / "ablations").glob("*.png")):
        yield from _failures(png.check_whole, path)


def _digest_of(path: Path, kind: str) -> str:
    try:
        return peek(path, kind)[1]
    except ArtifactError:
        return ""


def _verify_work(path: Path, kind: str, wanted: Stamp) -> None:
    stamp, _tensors, _digest = read(path, kind)
    if stamp.key != wanted.key:
        changed = ", ".join(stamp.differences(wanted)) or f"it is of {stamp.stage}"
        raise ArtifactError(f"{path} is stale ({changed})", f"run imagic {wanted.stage} --force")


def _verify_text(run: Run, record: Record, path: Path) -> None:
    stamp, _tensors, _digest = read(path, "text")
    text = str(stamp.settings.get("text"))
    wanted = Stamp("text", "generate", {"text": text}, {"model": record.identity})
    if stamp.key != wanted.key or path != run.text_file(text):
        raise ArtifactError(f"{path} is the embedding of another text or model", "imagic clean removes it")


def _verify_samples(record: Record, variant: str, path: Path) -> None:
    stamp, _tensors, _digest = read(path, "samples")
    if variant and variant_name(record.generate, sampling_of(path, stamp)) != variant:
        raise ArtifactError(f"{path} was sampled in another way than its folder says", "move it back, or remove both")


def _verify_image(path: Path, key: str | None) -> None:
    record = png.verify(path)
    seed = record.get("seed")
    name = picture_name(str(record.get("eta")), seed) if isinstance(seed, int) else ""
    if path.name != name or (key is not None and record.get("key") != key):
        raise ArtifactError(f"{path} is not the image that its name and place say", "remove it and generate again")


def _failures(look: Callable[..., object], *arguments: object) -> Iterator[ImagicError]:
    try:
        look(*arguments)
    except (ArtifactError, InputError) as error:
        yield error
