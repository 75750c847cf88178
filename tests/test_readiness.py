"""What a GPU's first step needs is found out and built once, beside the loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from imagic_cli import backends, readiness
from imagic_cli.backends.base import Backend
from imagic_cli.backends.source import find
from imagic_cli.config import ModelSource
from imagic_cli.precision import Precision

CPU = torch.device("cpu")
HALF = Precision("fp16", torch.device("cuda"))


def loaded(models: Path) -> Backend:
    return backends.load(find(ModelSource(source=str(models / "sd"))))


def test_it_is_built_once_for_a_model_on_a_gpu_in_half_precision(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a GPU")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _place: None)
    built: list[object] = []
    monkeypatch.setattr(readiness, "_build", lambda *of: built.append(of[1:]))
    backend = loaded(models)

    def load(identity: str, batch: int = 1, precision: Precision = HALF) -> None:
        with readiness.built_beside(backend, identity, (32, 32), "base", batch, precision):
            pass

    load("a model", precision=Precision("fp16", CPU))
    load("a model", precision=Precision("fp32", HALF.device))
    assert not built
    load("a model")
    load("a model")
    assert built == [((32, 32), "base", 1, HALF)]
    load("a model", batch=2)
    load("another")
    assert [batch for *_, batch, _ in built] == [1, 2, 1]


def test_what_cannot_be_built_fails_nothing_and_is_tried_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a GPU")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _place: None)
    tried = []

    def refused(*_: object) -> None:
        tried.append(1)
        raise RuntimeError("no compiler")

    monkeypatch.setattr(readiness, "_build", refused)
    for _ in range(2):
        with readiness.built_beside(loaded(models), "refused", (32, 32), "base", 1, HALF):
            pass
    assert len(tried) == 2


def test_every_form_of_attention_is_told_once_and_can_be_differentiated(models: Path) -> None:
    blank, forms = loaded(models).blank(32, 32), []
    with torch.no_grad(), readiness._Attentions(forms.append):
        blank.prediction(blank.embedding, 2)
    assert len(forms) == len(set(forms)) >= 4
    # To the picture itself, and to a text of 77 tokens.
    assert {shape[2] == 77 for form in forms for shape, _ in form[1:]} == {True, False}
    assert all(shape[0] == 2 for form in forms for shape, _ in form)
    for form in forms:
        readiness._attend(form, Precision("bf16", CPU))
