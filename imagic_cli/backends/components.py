"""Parts of a model by their explicit classes, from safetensors only, and only whole ones."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import CLIPTokenizer

from imagic_cli.backends.source import Model
from imagic_cli.errors import ImagicError, ModelError
from imagic_cli.precision import DTYPES


def load(model: Model, kind: Any, component: str, dtype: torch.dtype, **options: Any) -> Any:
    """One network; `options` go to the library as they are.

    Raises:
        ModelError: the files are not a whole network of that class.
    """
    with loading(model, component):
        module, found = kind.from_pretrained(
            model.folder / component,
            dtype=dtype,
            variant=model.variant_of(component),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
        # The libraries would draw what is missing at random, and go on.
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"{len(missing)} of its tensors are missing, such as {missing[0]}")
        return module


def load_encoder(model: Model, kind: Any, component: str, device: torch.device) -> Any:
    """One text encoder, frozen, on its device and in the number format that the model's source asks for.

    Raises:
        ModelError: the files are not a whole network of that class.
    """
    if model.encoder == "8bit":
        from transformers import BitsAndBytesConfig

        options = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": device}}
        return load(model, kind, component, torch.float16, **options).eval().requires_grad_(False)
    dtype = DTYPES[model.encoder or "fp32"]
    return load(model, kind, component, dtype).eval().requires_grad_(False).to(device)


def tokenizer(model: Model, component: str, encoder: str, kind: Any = CLIPTokenizer) -> Any:
    """The tokenizer of one text encoder.

    Raises:
        ModelError: it cannot be read, or is not that encoder's.
    """
    with loading(model, component):
        _check_readable(model, component)
        found = kind.from_pretrained(model.folder / component, local_files_only=True)
        # Without its files the library makes one that knows no letter, at most the space.
        if not len(found.all_special_ids) + 1 < len(found) <= model.config(encoder)["vocab_size"]:
            raise ValueError(f"its vocabulary has {len(found)} entries")
        return found


def _check_readable(model: Model, component: str) -> None:
    # DeepFloyd's tokenizers come in sentencepiece's own format alone; without these the library says other things.
    folder = model.folder / component
    if (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file():
        missing = [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]
        if missing:
            raise ModelError(f"{model.name}: its tokenizer needs {missing[0]}", "pip install 'imagic-cli[if]'")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        # The package around it.
        return False


def assemble(pipeline_class: Any, components: Mapping[str, Any], **options: Any) -> Any:
    """A family's diffusers pipeline around some of its components, without the others."""
    parameters = inspect.signature(pipeline_class.__init__).parameters.values()
    absent = dict.fromkeys(each.name for each in parameters if each.name != "self" and each.default is each.empty)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = pipeline_class(**(absent | dict(components)), **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def cut(tokenizer: Any, text: str, window: int) -> str:
    """The part of a text that falls out of a window of so many tokens, the end's mark included."""
    whole = tokenizer(text, truncation=False, verbose=False).input_ids
    return str(tokenizer.decode(whole[window - 1 : -1])).strip() if len(whole) > window else ""


@contextlib.contextmanager
def loading(model: Model, component: str) -> Iterator[None]:
    """Tell what goes wrong with a part of a model as a `ModelError` that names it."""
    try:
        yield
    except (ImagicError, MemoryError):
        raise
    except Exception as error:  # Libraries meet damage with errors of every class.
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise
        reason = [*str(error).strip().splitlines(), type(error).__name__][0]
        raise ModelError(f"{model.name}: {component} cannot be loaded: {reason}") from error
