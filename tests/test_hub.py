"""Group 13: what is asked of the hub, and what is said when it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors
from refusals import optimize, refused


def test_without_network_it_says_where_to_put_the_files(photo: Path) -> None:
    refused(
        optimize(photo, "somebody/some-model"),
        "somebody/some-model is not on this machine and the hub cannot be reached",
        "name a folder or a .safetensors file with --model",
    )


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (hub_errors.GatedRepoError, ["is gated", "accept its licence on its hub page", "hf auth login"]),
        (hub_errors.RepositoryNotFoundError, ["the hub has no model 'somebody/some-model'"]),
        (hub_errors.RevisionNotFoundError, ["has no revision 'v9'"]),
        (hub_errors.HfHubHTTPError, ["the hub cannot be reached", "--model"]),
        (ConnectionError, ["the hub cannot be reached", "--model"]),
        (hub_errors.HfHubHTTPError.__bases__[0], ["the hub cannot be reached", "--model"]),
        (TimeoutError, ["the hub cannot be reached", "--model"]),
    ],
)
def test_what_the_hub_refuses_is_told(
    error: type[Exception], parts: list[str], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        if issubclass(error, hub_errors.HfHubHTTPError):
            raise error("403", response=SimpleNamespace(headers={}, request=None))
        raise error("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    refused(optimize(photo, "somebody/some-model", "--revision", "v9"), *parts)


def test_only_safetensors_and_configs_are_downloaded(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(models / "sd")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert optimize(photo, "somebody/some-model", "--revision", "v9").code == 0
    assert (asked["name"], asked["revision"]) == ("somebody/some-model", "v9")
    patterns = asked["allow_patterns"]
    assert isinstance(patterns, list)
    # A sentencepiece model is a vocabulary, and holds no code.
    assert all(pattern.endswith((".json", ".txt", ".safetensors", "/spiece.model")) for pattern in patterns)
