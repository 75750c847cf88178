"""The pictures that leave: PNG files that say how they were made, in the texts people's tools read and in one JSON."""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagic_cli import files
from imagic_cli.errors import ArtifactError, InputError, UsageError
from imagic_cli.image import pixels_digest
from imagic_cli.photo import quoted, read

_KEY = "imagic"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AGAIN = "remove both and make it again"


def save(path: Path, image: Image.Image, parameters: str, record: Mapping[str, object]) -> None:
    """Write a picture and, beside it, its record: `<stem>.json`, which also holds the SHA-256 of the pixels.

    Equal arguments give equal bytes. Nothing of the photograph's own metadata is written.

    Args:
        path: the PNG file; its folder exists.
        image: the picture; written in mode RGB.
        parameters: what `a1111` returned.
        record: what made the picture, ready for JSON (no NaN or infinity).

    Raises:
        DiskError: the disk refused.
        UsageError: `path` is the name of the record.
    """
    sidecar = path.with_suffix(".json")
    if sidecar == path:
        raise UsageError(f"{quoted(path)} is the name of the record beside the picture", "choose a name ending in .png")
    # Rebuilt from the pixels alone: Pillow copies ICC profiles and transparency out of `info`.
    rgb = image.convert("RGB")
    plain = Image.frombytes("RGB", rgb.size, rgb.tobytes())
    texts = PngInfo()
    # Arguments that are no valid UTF-8 reach Python as lone surrogates.
    texts.add_text("parameters", parameters.encode("utf-8", "replace").decode())
    sign(texts, record)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            plain.save(stream, "PNG", pnginfo=texts)

    # The record first: where the picture is, its record is.
    files.commit_bytes(sidecar, _beside(record, plain))
    files.commit(path, write)


def sign(texts: PngInfo, record: Mapping[str, object]) -> None:
    """Add what made a picture to its texts; `is_ours` knows it by this."""
    texts.add_text(_KEY, json.dumps(dict(record), sort_keys=True, separators=(",", ":"), allow_nan=False))


def is_ours(path: Path) -> bool:
    """Whether this tool made the picture, as its record says."""
    try:
        read_record(path)
    except ArtifactError:
        return False
    return True


def is_edit(path: Path) -> bool:
    """Whether it is a picture that a run made, which can be made again: a scene may be a run's photograph."""
    try:
        return "eta" in read_record(path)
    except ArtifactError:
        return False


def a1111(
    prompt: str,
    negative: str,
    steps: int,
    sampler: str,
    guidance: float,
    seed: int,
    width: int,
    height: int,
    model: str,
    extra: Mapping[str, str],
) -> str:
    """The text that AUTOMATIC1111's web UI writes and many tools read: prompts, then one line of settings.

    Args:
        prompt: the target text.
        negative: the negative prompt; its line is left out when empty.
        steps: of the sampler.
        sampler: its name.
        guidance: scale of the classifier-free guidance.
        seed: of the noise.
        width: in pixels.
        height: in pixels.
        model: its name.
        extra: further settings, in this order.
    """
    settings: dict[str, object] = {
        "Steps": steps,
        "Sampler": sampler,
        "CFG scale": f"{guidance:g}",
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": model,
        **extra,
    }
    lines = [prompt, f"Negative prompt: {negative}"] if negative else [prompt]
    lines.append(", ".join(f"{key}: {_value(str(value))}" for key, value in settings.items()))
    return "\n".join(lines)


def read_record(path: Path) -> dict[str, object]:
    """The record in a PNG that `save` wrote.

    Raises:
        ArtifactError: the file is missing or damaged, or has no record.
    """
    name = quoted(path)
    if not path.is_file():
        raise ArtifactError(f"{name}: there is no such picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG",)) as image:
                text = image.info.get(_KEY)
        if text is None:
            raise ArtifactError(f"{name} carries no record of imagic", "it was made or saved again by something else")
        record = json.loads(text)
    except ArtifactError:
        raise
    except Exception as error:  # Decoders meet damage with errors of every class.
        raise ArtifactError(f"{name} is damaged: its record cannot be read") from error
    if not isinstance(record, dict):
        raise ArtifactError(f"{name} is damaged: its record is not a JSON object")
    return record


def verify(path: Path) -> dict[str, object]:
    """The record of a picture of which every byte, and the record beside it, is as `save` wrote it.

    Raises:
        ArtifactError: it is missing or damaged, or the record beside it is another picture's.
    """
    record = read_record(path)
    check_whole(path)
    sidecar = path.with_suffix(".json")
    try:
        found, wanted = sidecar.read_bytes(), _beside(record, Image.fromarray(read(path).pixels))
    except (InputError, ValueError, OSError) as error:
        raise ArtifactError(f"{quoted(path)} or {sidecar.name} cannot be read", _AGAIN) from error
    if found != wanted:
        raise ArtifactError(f"{quoted(path)} and {sidecar.name} do not belong together", _AGAIN)
    return record


def check_whole(path: Path) -> None:
    """Verify every chunk's checksum: decoders pass over those that do not reach the pixels.

    Raises:
        ArtifactError: a bit of the file is not as an encoder wrote it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{quoted(path)} cannot be read: {error.strerror}") from error
    at, kind = len(_SIGNATURE), b""
    whole = content.startswith(_SIGNATURE)
    while whole and kind != b"IEND":
        end = at + 8 + int.from_bytes(content[at : at + 4])
        kind, check = content[at + 4 : at + 8], content[end : end + 4]
        whole = len(check) == 4 and zlib.crc32(content[at + 4 : end]) == int.from_bytes(check)
        at = end + 4
    if not whole or at != len(content):
        raise ArtifactError(f"{quoted(path)} is damaged", _AGAIN)


def _beside(record: Mapping[str, object], image: Image.Image) -> bytes:
    described = {**record, "pixels": pixels_digest(image)}
    return json.dumps(described, sort_keys=True, indent=2, allow_nan=False).encode() + b"\n"


def _value(text: str) -> str:
    # The rule of the tools that read it: what would split the line stands as a JSON string.
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
