"""Parts of a model by their explicit classes, from safetensors only, and only whole ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import CLIPTokenizer

from imagic_cli.backends.source import Model
from imagic_cli.errors import ImagicError, ModelError


def load(model: Model, kind: Any, component: str, dtype: torch.dtype) -> Any:
    """One network.

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
        )
        # The libraries would draw what is missing at random, and go on.
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"{len(missing)} of its tensors are missing, such as {missing[0]}")
        return module


def tokenizer(model: Model, component: str, encoder: str) -> Any:
    """The tokenizer of one text encoder.

    Raises:
        ModelError: it cannot be read, or is not that encoder's.
    """
    with loading(model, component):
        found = CLIPTokenizer.from_pretrained(model.folder / component, local_files_only=True)
        # Without its files the library makes one that knows no letter.
        if not len(found.all_special_ids) < len(found) <= model.config(encoder)["vocab_size"]:
            raise ValueError(f"its vocabulary has {len(found)} entries")
        return found


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
