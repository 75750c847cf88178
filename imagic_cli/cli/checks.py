"""What was typed, checked before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagic_cli.config import (
    FinetuneSettings,
    How,
    OptimizeSettings,
    PhotoSettings,
    SamplingSettings,
    override,
)
from imagic_cli.errors import UsageError
from imagic_cli.locate import can_be_named, is_utf8
from imagic_cli.names import slug
from imagic_cli.sweep import Item, crossed, parse_etas, parse_seed_range, parse_seeds

Flags = Mapping[str, Any]
# What holds where nothing is typed; the help says it too.
STRENGTHS, SEEDS, GUIDANCES, LENGTHS = "0.4:0.8:0.1", "0:8", "1,3,5,7.5", "10,100,1000"


def how(**flags: object) -> How:
    """How to compute, from flags.

    Raises:
        UsageError: a value is out of range.
    """
    device = str(flags.get("device", "auto"))
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,4})?", device):
        raise UsageError(f"no device {device[:40]!r}", "use --device auto, cpu, cuda, cuda:N or mps")
    return override(How(), flags)


def center(text: str | None) -> tuple[float, float] | None:
    """Two fractions from 'x,y'.

    Raises:
        UsageError: it is not that.
    """
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--center {text!r} is not two fractions", "such as --center 0.5,0.3") from None
    return x, y


def items(eta: str, first: int, count: int, output: Path | None = None) -> list[Item]:
    """Each eta with each seed.

    Raises:
        UsageError: they cannot be meant, or are several for one output file.
    """
    found = crossed(parse_etas(eta), parse_seeds(first, count))
    if output is not None and len(found) > 1:
        raise UsageError(f"--output takes one image, these are {len(found)}", "they are in the run's images folder")
    if output is not None:
        check_output(output, name="--output")
    return found


def grid(eta: str, seed: str) -> list[Item]:
    """Each eta with each seed of a range.

    Raises:
        UsageError: they cannot be meant.
    """
    return crossed(parse_etas(eta), parse_seed_range(seed))


def lengths(stage: str, text: str | None, clip: str | None) -> list[int]:
    """Numbers of steps from '10,100,1000', and no flag that is of another stage's ablation.

    Raises:
        UsageError: it is not that, or a flag is of another stage's ablation.
    """
    if stage != "optimize":
        unused({"--steps": text}, "ablate optimize")
    if stage != "super-resolution":
        unused({"--clip": clip}, "ablate super-resolution")
    text = LENGTHS if text is None else text
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 8 for part in parts):
        raise UsageError(f"--steps {text!r} is no list of steps", "such as 10,100,1000")
    return sorted({int(part) for part in parts})


def method(name: str | None, rank: int | None) -> dict[str, Any]:
    """Stage B's flags for what it trains.

    Raises:
        UsageError: a rank was typed without LoRA, where there is none.
    """
    if rank is not None and name != "lora":
        raise UsageError(f"--rank {rank} is of a LoRA", "add --method lora")
    return {"method": name, "rank": rank}


def unused(flags: Flags, owner: str) -> None:
    """Refuse what was typed where it would change nothing.

    Args:
        flags: by how they are typed; None is one that was not.
        owner: what they are of.

    Raises:
        UsageError: one was typed.
    """
    for name, value in flags.items():
        if value is not None:
            raise UsageError(f"{name} {value} is of {owner}", "leave it out")


def rival_items(
    method: str, strength: str | None, seed: str | None, source: str | None, guidance: str | None
) -> list[Item]:
    """The tries of a baseline: strengths by seeds, or guidances of what has no seed; None is what was not typed.

    Raises:
        UsageError: they cannot be meant, are the other method's, or DDIB has no source text.
    """
    if method == "ddib":
        unused({"--strength": strength, "--seed": seed}, "baseline sdedit")
        if not says_something(source, "--source"):
            raise UsageError("DDIB needs to know what the photograph shows", 'such as --source "a bird on a branch"')
        return [(each, 0) for each in parse_etas(GUIDANCES if guidance is None else guidance, "--guidance")]
    unused({"--source": source, "--guidance": guidance}, "baseline ddib")
    strengths = parse_etas(STRENGTHS if strength is None else strength, "--strength")
    for each in strengths:
        if not 0 < float(each) <= 1:
            raise UsageError(f"--strength {each} is not above 0 and at most 1")
    return crossed(strengths, parse_seed_range(SEEDS if seed is None else seed))


def sharded(count: int, shard: str) -> list[int]:
    """The numbers below `count` that are the I-th of N parts, for a `shard` of "I/N".

    Raises:
        UsageError: it is not that.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    part, parts = (int(number) for number in found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise UsageError(f"--shard {shard!r} is not I/N with I from 1 to N", "such as --shard 2/8")
    return list(range(count))[part - 1 :: parts]


def check_recipe(photo: Flags, optimize: Flags, finetune: Flags, generate: Flags) -> None:
    """Refuse what cannot be meant of the numbers of all three stages.

    Raises:
        UsageError: a value is out of range.
    """
    override(PhotoSettings(), photo)
    override(OptimizeSettings(), optimize, "optimize")
    override(FinetuneSettings(), finetune, "finetune")
    override(SamplingSettings(), generate)


def check_output(output: Path, suffix: str = ".png", name: str = "the output") -> None:
    """Refuse before the work, not after it, a file that could not be written.

    Raises:
        UsageError: it has another ending, or cannot be a file there.
    """
    says_something(str(output), name)
    if output.suffix.lower() != suffix:
        raise UsageError(f"{name} {output} must end in {suffix}")
    if not can_be_named(output) or output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"{name} {output} cannot be a file", "name one in a folder that exists")


def check_folder(output: Path) -> None:
    """Refuse before the work, not after it, a folder that could not be made.

    Raises:
        UsageError: it cannot be a folder there.
    """
    says_something(str(output), "--out")
    if not can_be_named(output) or (output.exists() and not output.is_dir()):
        raise UsageError(f"--out {output} cannot be a folder")


def says_something(text: str | None, name: str) -> bool:
    """Whether a text is more than blanks.

    Raises:
        UsageError: it is no text at all.
    """
    # No tokenizer takes it.
    if text is not None and not is_utf8(text):
        raise UsageError(f"{name} is not valid UTF-8")
    return bool(text and text.strip())


def named_folders(texts: list[str]) -> dict[str, Path]:
    """Methods' folders by name, from 'NAME=FOLDER'.

    Raises:
        UsageError: one is not that, or a name comes twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        name = name.strip()
        if not equals or not name.isprintable() or not name or not folder or len(name) > 200:
            raise UsageError(f"{text!r} is not METHOD=FOLDER", "such as imagic=results/imagic")
        if name in found:
            raise UsageError(f"the method {name!r} is named twice")
        found[name] = Path(folder)
    return found


def others(texts: list[str]) -> dict[str, Path]:
    """Folders of other methods' results by name, from 'NAME=FOLDER'.

    Raises:
        UsageError: one is not that, a name comes twice, or would be taken for another or for this tool.
    """
    found = named_folders(texts)
    if len({slug(name, 40) for name in ("imagic", *found)}) <= len(found):
        raise UsageError("methods are told apart by letters and digits, and none is called imagic", "rename one")
    return found
