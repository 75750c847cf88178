"""Download a model from the Hugging Face hub: safetensors and configs only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imagic_cli.config import ModelSource
from imagic_cli.errors import ModelError

_CONFIGS = ["model_index.json", "*/*.json", "*/*.txt", "*/spiece.model"]


def download(source: ModelSource, weights: bool = True, without: Sequence[str] = ()) -> Path:
    """The folder that holds a hub model, from the hub's cache or the network.

    Args:
        source: hub id, revision and variant.
        weights: with them, or configs and tokenizers alone.
        without: components to leave out.

    Raises:
        ModelError: gated, missing, or no network; the hint says what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    variant = f".{source.variant}" if source.variant else ""
    # The watermark has no variants.
    wanted = [f"*/*{variant}*.safetensors", "watermarker/*.safetensors"] if weights else []
    unwanted = [] if variant else ["*/*.fp16*", "*/*.bf16*", "*/*non_ema*"]
    unwanted += [f"{component}/*" for component in without]
    try:
        return Path(
            snapshot_download(
                source.source, revision=source.revision, allow_patterns=_CONFIGS + wanted, ignore_patterns=unwanted
            )
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{source.source} is gated", "accept its licence on its hub page, then log in with: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{source.source} has no revision '{source.revision}'") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"the hub has no model '{source.source}'", "or it is private: hf auth login") from error
    except Exception as error:  # Of the hub, the disk, or whichever HTTP library the hub's client uses.
        raise ModelError(
            f"{source.source} is not on this machine and the hub cannot be reached",
            "name a folder or a .safetensors file with --model",
        ) from error
