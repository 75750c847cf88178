"""How an artifact says what it is: which work made it, from what, and what its content hashes to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1


def canonical(value: object) -> str:
    """JSON with one spelling per value, so that equal content has equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True)
class Stamp:
    """Provenance of one artifact.

    Attributes:
        kind: embeddings, weights, samples, text or progress.
        stage: optimize, finetune or generate.
        settings: what changes the result.
        inputs: digest of everything the work read.
        extra: what describes the content but not the work, such as a progress's step.
        schema: version of the file's layout.
    """

    kind: str
    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def key(self) -> str:
        """Equal keys mean the same work: its result need not be made again."""
        work = {"schema": self.schema, "stage": self.stage, "settings": self.settings, "inputs": self.inputs}
        return hashlib.sha256(canonical(work).encode()).hexdigest()

    def fields(self) -> dict[str, Any]:
        """What the file's header holds, but for the content's digest."""
        return {
            "kind": self.kind,
            "stage": self.stage,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "extra": dict(self.extra),
            "schema": self.schema,
        }

    def differences(self, wanted: Stamp) -> list[str]:
        """What `wanted` asks for that this is not: 'steps 1000 -> 500', 'image changed'."""
        found = [
            f"{name} {_short(self.settings, name)} -> {_short(wanted.settings, name)}"
            for name in sorted({*self.settings, *wanted.settings})
            if self.settings.get(name) != wanted.settings.get(name)
        ]
        found += [
            f"{name} changed"
            for name in sorted({*self.inputs, *wanted.inputs})
            if self.inputs.get(name) != wanted.inputs.get(name)
        ]
        return found + ([f"schema {self.schema} -> {wanted.schema}"] if self.schema != wanted.schema else [])


def _short(settings: Mapping[str, Any], name: str) -> str:
    # What a setting was before there was a choice is not recorded.
    text = json.dumps(settings[name]) if name in settings else "default"
    return text if len(text) <= 40 else f"{text[:37]}..."
