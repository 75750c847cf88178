"""Ways in which the header of a safetensors file can be wrong: bytes, its length, its JSON, and our stamp in it."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

_DTYPES = [
    "F32",
    "F64",
    "F16",
    "BF16",
    "I8",
    "U8",
    "I64",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F4",
    "C64",
    "U64",
    "X9",
    "",
    None,
]
_NUMBERS = [0, 1, -1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 0.5, True, None, "1", [], {}]
_TEXTS = ["", "\0", "é", "\u202e", "\ud800", "x" * 5000, "__metadata__", "../../x", "a/b/c", "\n", "imagic", "digest"]
# Spelled out: json.dumps would not write them.
_RAW = [
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "9" * 5000,
    "-" + "9" * 5000,
    "0." + "1" * 5000,
    "1e-9999",
    '"\\ud800"',
    "nul",
]


def mutate(content: bytes, chance: random.Random) -> bytes:
    """One wrong version of a file."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    how = chance.choice(
        [_bytes, _bytes, _length, _structure, _structure, _structure, _stamp, _stamp, _raw, _deep, _duplicate]
    )
    changed: bytes = how(header, data, chance)
    return changed


def packed(header: bytes, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file, with a true or a false length."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _bytes(header: bytes, data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(header)
    for _ in range(chance.choice([1, 1, 1, 2, 5, 50])):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at : at + chance.choice([1, 10, 100])]
            case 2:
                changed[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice([1, 8])))
            case _:
                changed[at : at + 1] = chance.choice([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\0", b"\xff"])
    return packed(bytes(changed), data)


def _length(header: bytes, data: bytes, chance: random.Random) -> bytes:
    lengths = [0, 1, 7, len(header) - 1, len(header) + 1, len(header) + len(data), len(header) + len(data) + 1]
    lengths += [100_000_000, 100_000_001, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, chance.randrange(2**64)]
    whole = packed(header, data, chance.choice(lengths))
    return whole[: chance.choice([len(whole), len(whole), 0, 4, 8, 9])]


def _structure(header: bytes, data: bytes, chance: random.Random) -> bytes:
    content: dict[str, Any] = json.loads(header)
    for _ in range(chance.choice([1, 1, 2])):
        name = chance.choice([each for each, part in content.items() if isinstance(part, dict)])
        tensor = content[name]
        match chance.randrange(9):
            case 0:
                tensor["dtype"] = chance.choice(_DTYPES)
            case 1:
                tensor["shape"] = [chance.choice(_NUMBERS) for _ in range(chance.choice([0, 1, 2, 5, 2000]))]
            case 2:
                tensor["data_offsets"] = [
                    chance.choice([*_NUMBERS, len(data)]) for _ in range(chance.choice([0, 1, 2, 2, 3]))
                ]
            case 3:
                tensor.pop(chance.choice(list(tensor) or [""]), None)
            case 4:
                content[name] = chance.choice(_NUMBERS)
                break
            case 5:
                content[chance.choice(_TEXTS)] = content.pop(name)
            case 6:
                tensor[chance.choice(_TEXTS)] = chance.choice(_NUMBERS)
            case 7:
                # The same bytes in another shape or format.
                flat = {"dtype": chance.choice(["U8", "BOOL", "I8"]), "shape": [chance.randrange(5000)]}
                tensor |= chance.choice([flat, {"shape": [*tensor.get("shape", []), *[1] * 200]}])
            case _:
                empty = chance.choice([[0], [0, 2**40], [2**62, 0], [0, 2**63 - 1, 2**63 - 1], [0, 2**64 - 1]])
                content[f"empty{chance.random()}"] = {"dtype": "F32", "shape": empty, "data_offsets": [len(data)] * 2}
    return packed(_dumped(content), data)


def _stamp(header: bytes, data: bytes, chance: random.Random) -> bytes:
    content: dict[str, Any] = json.loads(header)
    match chance.randrange(6):
        case 0:
            content["__metadata__"] = chance.choice([{}, {"imagic": ""}, {"imagic": 5}, {"other": "x"}, [], None, "x"])
        case 1:
            content["__metadata__"]["imagic"] = chance.choice([*_TEXTS, "[]", "{}", "null", "5", '"x"', "[" * 100_000])
        case 2:
            content["__metadata__"][chance.choice(_TEXTS)] = chance.choice(_TEXTS)
        case _:
            stamp = json.loads(content["__metadata__"]["imagic"])
            field = chance.choice(list(stamp))
            part = stamp[field]
            if isinstance(part, dict) and part and chance.random() < 0.5:
                stamp[field] = part | {chance.choice(list(part)): chance.choice([*_NUMBERS, *_TEXTS])}
            elif chance.random() < 0.2:
                del stamp[field]
            else:
                stamp[field] = chance.choice([*_NUMBERS, *_TEXTS])
            content["__metadata__"]["imagic"] = json.dumps(stamp, sort_keys=True, separators=(",", ":"))
    return packed(_dumped(content), data)


def _raw(header: bytes, data: bytes, chance: random.Random) -> bytes:
    raw = chance.choice(_RAW).encode()
    if chance.random() < 0.5:
        # In the stamp: a number there becomes another one.
        quoted = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        return packed(header.replace(b'\\"schema\\":1', b'\\"schema\\":' + quoted), data)
    return packed(header.replace(b"[0,", b"[" + raw + b",", 1), data)


def _deep(header: bytes, data: bytes, chance: random.Random) -> bytes:
    depth = chance.choice([10, 127, 128, 1000, 100_000])
    deep = chance.choice([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth])
    place = chance.choice([b'\\"extra\\":{}', b'"shape":['])
    if place == b'"shape":[':
        return packed(header.replace(place, place + deep + b",", 1), data)
    return packed(header.replace(place, b'\\"extra\\":' + deep.replace(b'"', b'\\"'), 1), data)


def _duplicate(header: bytes, data: bytes, chance: random.Random) -> bytes:
    content: dict[str, Any] = json.loads(header)
    name = chance.choice(list(content))
    again = json.dumps({name: content[chance.choice([name, *content])]})[1:-1].encode()
    return packed(b"{" + again + b"," + header.strip()[1:], data)


def _dumped(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
