"""From what was typed to what is done: defaults < preset < what the run recorded < flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from imagic_cli import backends, config, presets
from imagic_cli.backends.source import Model, check_encoder, find, local
from imagic_cli.config import FinetuneSettings, How, Method, ModelFlags, ModelSource, SamplingSettings
from imagic_cli.errors import ArtifactError, UsageError
from imagic_cli.events import Listener, Note
from imagic_cli.image import pixels_digest, prepare
from imagic_cli.locate import existing_run, named_run
from imagic_cli.names import BASE, new_path
from imagic_cli.photo import quoted, read
from imagic_cli.presets import Preset
from imagic_cli.record import ImageRecord, Record
from imagic_cli.run import Run
from imagic_cli.stamps import Stamp

Flags = Mapping[str, Any]

_DEMO = (
    "the demo model works: it knows only scenes such as imagic scene draws; "
    "for photographs name a real one, such as --model sd15"
)


@dataclass(frozen=True)
class Edit:
    """An edit that is ready for stage A.

    Attributes:
        run: where it goes.
        record: all that it was told, resolved.
        image: the prepared photograph.
        model: the pretrained model.
        before: what the run had recorded when this was resolved from it; None where it is a new one.
    """

    run: Run
    record: Record
    image: Image.Image
    model: Model
    before: Record | None = None


def new_edit(
    image: Path | None,
    text: str,
    run_path: Path | None,
    model_flags: ModelFlags,
    photo_flags: Flags,
    train_flags: Flags,
    how: How,
    tell: Listener,
) -> Edit:
    """Resolve what `imagic optimize` was told.

    Raises:
        ImagicError: something of it cannot be meant, read or found.
    """
    path = named_run(run_path)
    if image is None:
        return _again(existing_run(path, tell), model_flags, photo_flags, train_flags, how)
    photo = read(image)
    recorded = Run(path).read_record() if path is not None and Run(path).record_file.is_file() else None
    if recorded is None and model_flags == ModelFlags():
        tell(Note(_DEMO))
    name, preset, source, model = _basis(model_flags, recorded)
    check_encoder(source)
    backend = backends.load(model)
    settings = config.override(preset.photo, photo_flags)
    if photo_flags.get("center") is not None and settings.fit != "crop":
        raise UsageError("--center is of a crop", "add --fit crop")
    size = settings.size or backend.size
    prepared, notes = prepare(photo, size, backend.multiple, settings.fit, settings.center)
    for note in (*photo.notes, *notes):
        tell(Note(f"{image.name}: {note}"))
    pixels = pixels_digest(prepared)
    run = Run(path or new_path(image.stem, text, pixels))
    if path is None and run.record_file.is_file():
        recorded = run.read_record()
        if _is_same(source, recorded.model):
            name, preset, source, model = _basis(model_flags, recorded)
    # A branch moves: the run stays with the commit that it began with.
    source = _pinned(source, model)
    taken = ImageRecord(name=quoted(Path(image.name)), width=prepared.width, height=prepared.height, pixels=pixels)
    identity = model.identity(how.strict)
    record = _record(name, preset, source, model, identity, text, taken, photo_flags, train_flags, how)
    above = {level: _usual(_usual_recipe(preset, level), how) for level in backend.levels[1:]}
    record = record.model_copy(update={"above": above, "sizes": backend.sizes})
    return Edit(run, record, prepared, model, recorded)


def check_model(flags: ModelFlags) -> None:
    """Find the model that a new edit would take, before a long list of edits begins.

    Raises:
        ImagicError: there is no such preset or model, or it cannot be loaded.
    """
    _basis(flags, None)


def recorded_model(run: Run, record: Record, how: How) -> Model:
    """The run's own model, verified to be the one that it began with.

    Raises:
        ModelError: it cannot be found.
        ArtifactError: its files have changed: a delta is never applied to another model.
    """
    model = find(record.model)
    if model.identity(how.strict) != record.identity:
        raise ArtifactError(
            f"{record.model.source} is not the model that {run.path} began with: its files changed",
            "restore them, or start anew with imagic optimize --force",
        )
    return model


def finetune_record(record: Record, levels: Sequence[str], flags: Flags, how: How) -> Record:
    """The record with what `imagic finetune` was told about these levels.

    Raises:
        UsageError: a value is out of range, or only of use above the base.
    """
    if flags.get("condition") is not None and set(levels) <= {BASE}:
        raise UsageError("--sr-condition is of what is above the base of a cascade", "the base is tuned at e_opt")
    told: dict[str, FinetuneSettings] = {}
    for level in levels:
        recipe = _recipe(record, level, flags.get("method"))
        meant = {name: value for name, value in flags.items() if name != "condition" or level != BASE}
        told[level] = config.override(recipe, _resolved(recipe, meant, how))
    return record.with_recipes(told)


def planned(edit: Edit, finetune: Flags, generate: Flags, how: How) -> Edit:
    """The edit with what was told about stages B and C in its record as well: that is the run's own way."""
    record = finetune_record(edit.record, edit.record.levels(), finetune, how)
    return replace(edit, record=record.model_copy(update={"generate": sampling_settings(record, generate, how)}))


def own_numbers(record: Record, model: Model, typed: Mapping[str, Flags]) -> list[str]:
    """Where a run's numbers are not its preset's, and nobody types them now: 'optimize steps 40 -> 1'."""
    usual = presets.load_preset(record.preset) if record.preset else _numbers(model, record.model)
    found = []
    for stage, flags in typed.items():
        said = {"dtype", *(name for name, value in flags.items() if value is not None)}
        # Another method has a rate of its own.
        said |= {"learning_rate", "rank"} if "method" in said else set()
        before, now = (Stamp("", stage, getattr(each, stage).model_dump(exclude=said), {}) for each in (usual, record))
        found += [f"{stage} {each}" for each in before.differences(now)]
    return found


def sampling_settings(record: Record, flags: Flags, how: How) -> SamplingSettings:
    """What `imagic generate` was told, over what the run recorded.

    Raises:
        UsageError: something cannot be meant, such as a size at which the model cannot stop.
    """
    # First, for the rest imports torch.
    size = record.generate.size if flags.get("size") is None else flags["size"]
    if size is not None and size not in record.sizes:
        known = ", ".join(str(size) for size in record.sizes) or "none, its pictures have the photograph's"
        raise UsageError(f"--size {size} is no size that this model stops at", f"there are: {known}")
    given = dict(flags) | ({"prompt": None} if flags.get("prompt") == record.text else {})
    settings = config.override(record.generate, _resolved(record.generate, given, how))
    if size is not None and size == record.sizes[-1]:
        # Its end has one name.
        settings = settings.model_copy(update={"size": None})
    return settings


def _recipe(record: Record, level: str, method: Method | None) -> FinetuneSettings:
    # Where another method is asked for, with that one's own rate: what was recorded means nothing to it.
    recorded = record.recipe(level)
    if method in {None, recorded.method}:
        return recorded
    name = record.preset or backends.USUAL_PRESETS.get(record.family)
    usual = _usual_recipe(presets.load_preset(name), level) if name else FinetuneSettings()
    if usual.method != method:
        usual = FinetuneSettings.model_validate({"method": method})
    own = {name: getattr(usual, name) for name in ("method", "rank", "learning_rate")}
    return recorded.model_copy(update=own)


def _usual_recipe(preset: Preset, level: str) -> FinetuneSettings:
    return preset.finetune if level == BASE else preset.above.get(level, preset.super_resolution)


def _again(run: Run, model_flags: ModelFlags, photo_flags: Flags, train_flags: Flags, how: How) -> Edit:
    # imagic optimize --run DIR, as an interrupted run is told to continue.
    if any(value is not None for value in (*vars(model_flags).values(), *photo_flags.values())):
        raise UsageError("the photograph is missing", "name it: imagic optimize IMAGE TEXT")
    recorded = run.read_record()
    settings = config.override(recorded.optimize, _resolved(recorded.optimize, train_flags, how))
    record = recorded.model_copy(update={"optimize": settings})
    return Edit(run, record, run.read_image(), recorded_model(run, record, how), recorded)


def _basis(flags: ModelFlags, recorded: Record | None) -> tuple[str, Preset, ModelSource, Model]:
    # The preset's name ("" for none), its numbers or the recorded ones, where the model comes from, and the model.
    name = flags.preset or (flags.model if flags.model in presets.preset_names() else None)
    if name is None and flags.model is None:
        name = recorded.preset if recorded else presets.DEFAULT_PRESET
    if flags.model in presets.preset_names():
        own = presets.load_preset(flags.model).model
    else:
        own = ModelSource(source=_lasting(flags.model or ""))
    preset = presets.load_preset(name) if name else None
    source = own if preset is None or flags.model not in {None, name} else preset.model
    if recorded is not None and flags.model is None and flags.preset is None:
        source = recorded.model
    typed = {"revision": flags.revision, "variant": flags.variant, "config": flags.config and _lasting(flags.config)}
    source = config.override(source, typed | {"encoder": flags.encoder})
    known = recorded if recorded is not None and _is_same(source, recorded.model) else None
    if known is None or (name or "") != known.preset:
        model = find(source)
        return name or "", preset or _numbers(model, source), source, model
    model = find(known.model)
    same = {part: getattr(known, part) for part in ("photo", "optimize", "finetune", "above", "generate")}
    return known.preset, (preset or _numbers(model, known.model)).model_copy(update=same), known.model, model


def _numbers(model: Model, source: ModelSource) -> Preset:
    # Where no preset is named: those that the paper, or we, give the model's family.
    usual = backends.USUAL_PRESETS.get(model.family)
    if usual is None:
        return Preset(description="the paper's numbers", model=source)
    return presets.load_preset(usual).model_copy(update={"model": source})


def _pinned(source: ModelSource, model: Model) -> ModelSource:
    above = tuple(_pinned(*pair) for pair in zip(source.above, model.above, strict=False))
    return source.model_copy(update={"revision": model.revision or source.revision, "above": above})


def _is_same(asked: ModelSource, recorded: ModelSource) -> bool:
    # No revision asked for means the recorded one.
    return asked in (recorded, _unpinned(recorded))


def _unpinned(source: ModelSource) -> ModelSource:
    return source.model_copy(update={"revision": None, "above": tuple(_unpinned(each) for each in source.above)})


def _lasting(source: str) -> str:
    # Later commands may be typed in another directory.
    path = local(source)
    return str(path.absolute()) if path else source


def _record(
    name: str,
    preset: Preset,
    source: ModelSource,
    model: Model,
    identity: str,
    text: str,
    image: ImageRecord,
    photo_flags: Flags,
    train_flags: Flags,
    how: How,
) -> Record:
    return Record(
        text=text,
        image=image,
        preset=name,
        model=source,
        family=model.family,
        identity=identity,
        photo=config.override(preset.photo, photo_flags),
        optimize=config.override(preset.optimize, _resolved(preset.optimize, train_flags, how)),
        finetune=_usual(preset.finetune, how),
        generate=config.override(preset.generate, _resolved(preset.generate, {}, how)),
    )


def _usual(settings: FinetuneSettings, how: How) -> FinetuneSettings:
    return config.override(settings, _resolved(settings, {}, how))


def _resolved(settings: Any, flags: Flags, how: How) -> dict[str, Any]:
    from imagic_cli.precision import pick_device, pick_dtype

    # "auto" is not a setting that a key can hold: it means different things on different machines.
    dtype = flags.get("dtype") or settings.dtype
    return dict(flags) | {"dtype": pick_dtype(dtype, pick_device(how.device))}
