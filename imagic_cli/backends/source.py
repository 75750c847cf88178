"""Find a model's files, refuse what is unsafe, and identify it by a hash of what would be loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagic_cli.backends import hub
from imagic_cli.backends.digests import file_digest
from imagic_cli.config import ModelSource
from imagic_cli.errors import ModelError, UsageError
from imagic_cli.stamps import canonical

_UNSAFE = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
# The safety checker judges pictures after they are made: it is no part of what makes them.
_NO_INFLUENCE = {"safety_checker", "feature_extractor", "image_encoder", "watermarker"}
# What a cascade's part is published with and its base has too: it is read from there, and not downloaded again.
_SHARED = {"IFSuperResolutionPipeline": _NO_INFLUENCE | {"text_encoder", "tokenizer"}}
# The parts of a cascade in one folder, each a folder in diffusers layout, in their order.
_BASE, _ABOVE = "base", ("super-resolution", "upscaler")


@dataclass(frozen=True)
class Model:
    """A model on this machine.

    Attributes:
        name: what the user called it.
        folder: in diffusers layout.
        index: its model_index.json.
        variant: which weight files were asked for.
        revision: the commit that a hub model is at, else None.
        encoder: the number format of its text encoders; None is fp32.
        above: what enlarges its pictures, in order, where it is the base of a cascade.
    """

    name: str
    folder: Path
    index: dict[str, Any]
    variant: str | None
    revision: str | None = None
    encoder: str | None = None
    above: tuple[Model, ...] = ()

    @property
    def family(self) -> str:
        """Its pipeline class."""
        return str(self.index.get("_class_name"))

    def has(self, component: str) -> bool:
        """Whether the model names and holds this component."""
        declared = self.index.get(component)
        return isinstance(declared, list) and declared[0] is not None and (self.folder / component).is_dir()

    def config(self, component: str) -> dict[str, Any]:
        """A component's config.

        Raises:
            ModelError: there is none.
        """
        for name in ("config.json", f"{component}_config.json", "scheduler_config.json", "preprocessor_config.json"):
            path = self.folder / component / name
            if path.is_file():
                return read_json(path, self.name)
        raise ModelError(f"{self.name} has no {component} config", "is the folder complete?")

    def variant_of(self, component: str) -> str | None:
        """The variant to load: the one asked for, where the component has it."""
        return self.variant if self.variant and self._weights(component, self.variant) else None

    def weight_files(self, component: str) -> list[Path]:
        """The safetensors files that would be loaded.

        Raises:
            ModelError: there are none; pickles are refused unread.
        """
        found = self._weights(component, self.variant_of(component))
        if found:
            return found
        others = sorted((self.folder / component).glob("*.safetensors"))
        if others:
            variants = sorted({path.name.split(".")[-2] for path in others})
            raise ModelError(f"{self.name}: {component} has only variants", f"try --variant {variants[0]}")
        if any(path.suffix in _UNSAFE for path in (self.folder / component).glob("*")):
            raise ModelError(f"{self.name}: {component} has only pickled weights, which can run code", _CONVERT)
        raise ModelError(f"{self.name}: {component} has no weights", "is the folder complete?")

    def identity(self, fresh: bool = False) -> str:
        """A hash of every file that has an influence on results; where they lie and how old they are has none.

        Args:
            fresh: read every file again, even those that seem unchanged since they were last read.
        """
        # Of the index, the pipeline's own options count, such as SDXL's about the empty prompt.
        index = self.index.items()
        options = {name: each for name, each in index if not name.startswith("_") and not isinstance(each, list)}
        parts: dict[str, str] = {"family": self.family, "options": canonical(options)}
        parts |= {} if self.encoder is None else {"encoder": self.encoder}
        parts |= {f"above {number}": each.identity(fresh) for number, each in enumerate(self.above)}
        for component in sorted(self.index):
            if not self.has(component) or component in _SHARED.get(self.family, _NO_INFLUENCE):
                continue
            folder = self.folder / component
            readable = {".json", ".txt", ".model"}
            small = [path for path in folder.iterdir() if path.suffix in readable and "index" not in path.name]
            heavy = [] if _is_light(component) else self.weight_files(component)
            for path in small + heavy:
                parts[f"{component}/{path.name}"] = file_digest(path, fresh)
        return hashlib.sha256(canonical(parts).encode()).hexdigest()

    def _weights(self, component: str, variant: str | None) -> list[Path]:
        found = []
        for path in sorted((self.folder / component).glob("*.safetensors")):
            # name[.variant].safetensors, or name[.variant]-00001-of-00002.safetensors
            stem = path.name.removesuffix(".safetensors").split("-0")[0]
            if (stem.split(".", 1)[1] if "." in stem else None) == variant:
                found.append(path)
        return found


_CONVERT = "convert them to safetensors first"


# Models that are shipped in the package, by the name that a run records: it stays valid on another machine.
_SKETCHBOOK = Path(__file__).parents[1] / "sketchbook"
BUNDLED = {"sketchbook": _SKETCHBOOK / "model", "sketchbook-cascade": _SKETCHBOOK / "cascade"}
# The one CLIP that judges the drawings of all of them.
BUNDLED_CLIP = BUNDLED["sketchbook"] / "clip"


def find(source: ModelSource, is_part: bool = False) -> Model:
    """The model that `source` names, downloaded if need be.

    Args:
        source: what was named.
        is_part: it is one above the base of a cascade: what the base has too is not downloaded again.

    Raises:
        ModelError: there is no such model, it may not be downloaded, or it is no diffusers model.
    """
    path = BUNDLED.get(source.source) or local(source.source)
    if path and path.is_file():
        folder = _convert(path, source)
    elif path:
        folder = path
        if not (path / "model_index.json").is_file() and (path / _BASE).is_dir():
            return _cascade(path, source)
    elif source.source.count("/") == 1 and not source.source.startswith((".", "/", "~")):
        folder = _downloaded(source, is_part)
    else:
        from imagic_cli.presets import preset_names

        raise ModelError(
            f"no model '{source.source}'",
            f"use a folder, a .safetensors file, a hub id, or: {', '.join(preset_names())}",
        )
    found = _read(folder, source.source, source)
    commit = folder.name if path is None and re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
    return replace(found, revision=commit, above=tuple(find(each, is_part=True) for each in source.above))


def check_encoder(source: ModelSource) -> None:
    """Refuse a number format of text encoders that nothing here computes in, before anything is written.

    Raises:
        UsageError: 8 bit without bitsandbytes.
    """
    if source.encoder == "8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("--encoder 8bit needs bitsandbytes", "pip install 'imagic-cli[adam8bit]'")


def _downloaded(source: ModelSource, is_part: bool) -> Path:
    if not is_part:
        return hub.download(source)
    configs = _read(hub.download(source, weights=False), source.source, source)
    return hub.download(source, without=sorted(_SHARED.get(configs.family, ())))


def _cascade(folder: Path, source: ModelSource) -> Model:
    base = _read(folder / _BASE, source.source, source)
    # The text encoder whose number format can be chosen is the base's: others are small beside it.
    plain = source.model_copy(update={"encoder": None})
    above = [_read(folder / name, f"{source.source}/{name}", plain) for name in _ABOVE if (folder / name).is_dir()]
    return replace(base, above=tuple(above))


def _read(folder: Path, name: str, source: ModelSource) -> Model:
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{name} has no model_index.json", "name a folder in diffusers layout")
    index = read_json(folder / "model_index.json", name)
    if not isinstance(index.get("_class_name"), str):
        raise ModelError(f"{name} asks to run code of its own", "only diffusers' own pipelines are supported")
    return Model(name, folder, index, source.variant, encoder=source.encoder)


def _is_light(component: str) -> bool:
    return component.startswith("tokenizer") or "scheduler" in component


def local(name: str) -> Path | None:
    """The file or folder that a model's name means, if it is one."""
    try:
        path = Path(name).expanduser()
        return path if name and (path.is_file() or path.is_dir()) else None
    except (OSError, ValueError, RuntimeError):
        # Too long, or ~ of nobody: it is no path, and what it is instead is told by who asked.
        return None


def read_json(path: Path, model: str) -> dict[str, Any]:
    """A JSON object from a model's folder.

    Raises:
        ModelError: it is not one.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{model}: {path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{model}: {path.name} is not a JSON object")
    return content


def _convert(path: Path, source: ModelSource) -> Path:
    if path.suffix in _UNSAFE:
        raise ModelError(f"{path.name} is a pickle, which can run code", _CONVERT)
    if path.suffix != ".safetensors":
        raise ModelError(f"{path.name} is not a .safetensors checkpoint")
    from imagic_cli.backends.checkpoint import convert

    return convert(path, source)
