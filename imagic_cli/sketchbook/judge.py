"""The judge: a small classifier that says what a picture shows. It has no part in training or choosing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from imagic_cli.errors import ModelError
from imagic_cli.sketchbook.captions import hides_colour
from imagic_cli.sketchbook.networks import Sizes
from imagic_cli.sketchbook.scenes import Scene
from imagic_cli.sketchbook.vocabulary import KINDS, SETTINGS, STYLES

# A pose belongs to its subject: a jumping dog and a jumping horse are two classes.
CLASSES: dict[str, tuple[str, ...]] = {
    "subject": tuple(KINDS),
    "pose": tuple(f"{subject}: {pose}" for subject, kind in KINDS.items() for pose in kind.poses),
    "colour": tuple(dict.fromkeys(colour for kind in KINDS.values() for colour in kind.colours)),
    "setting": tuple(SETTINGS),
    "style": tuple(STYLES),
}
SHIPPED = Path(__file__).parent / "model" / "judge" / "judge.safetensors"
# cross_entropy's own mark for what has no right answer.
UNSEEN = -100


@dataclass(frozen=True)
class Sight:
    """What a picture shows, in the words of a scene's fields. `colour` is None where the drawing hides it."""

    subject: str
    pose: str
    colour: str | None
    setting: str
    style: str


def truth(scene: Scene) -> Sight:
    """What a picture of `scene` should be seen to show."""
    colour = None if hides_colour(scene) else scene.colour
    return Sight(scene.subject, scene.pose, colour, scene.setting, scene.style)


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Class numbers (B,) for each head; `UNSEEN` for a colour that a pencil sketch hides."""
    found: dict[str, list[int]] = {name: [] for name in CLASSES}
    for scene in scenes:
        shown = truth(scene)
        said = vars(shown) | {"pose": f"{shown.subject}: {shown.pose}"}
        for name, classes in CLASSES.items():
            found[name].append(UNSEEN if said[name] is None else classes.index(said[name]))
    return {name: torch.tensor(numbers) for name, numbers in found.items()}


class _Block(nn.Module):
    """Two convolutions beside a shortcut; halves the height and width when `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(x)))
        added: Tensor = self.shortcut(x) + self.conv2(F.silu(self.norm2(inner)))
        return added


class Judge(nn.Module):
    """Pictures (B, 3, 128, 128) in [-1, 1] to one row of logits for each head of `CLASSES`."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 5, 2, 2)
        pairs = zip(widths, widths[1:], strict=False)
        self.blocks = nn.Sequential(*(_Block(inputs, outputs, 2) for inputs, outputs in pairs))
        self.norm = nn.GroupNorm(8, widths[-1])
        # Where something is tells poses apart, so a coarse map is read, not only its mean.
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.heads = nn.ModuleDict({name: nn.Linear(widths[-1] * 16, len(each)) for name, each in CLASSES.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.pool(F.silu(self.norm(self.blocks(self.conv_in(pictures))))).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}

    def see(self, pictures: Tensor) -> list[Sight]:
        """The most likely answer of each head, the pose among those of the subject seen.

        A colour is always named here, since only the asker knows whether it should show.
        """
        with torch.inference_mode():
            logits = {name: each.float().cpu() for name, each in self(pictures).items()}
        found = []
        for row in range(len(pictures)):
            best = {name: CLASSES[name][int(each[row].argmax())] for name, each in logits.items()}
            own = [i for i, name in enumerate(CLASSES["pose"]) if name.startswith(f"{best['subject']}: ")]
            pose = CLASSES["pose"][own[int(logits["pose"][row, own].argmax())]]
            found.append(Sight(**(best | {"pose": pose.partition(": ")[2]})))
        return found


def load() -> Judge:
    """The judge that is shipped.

    Raises:
        ModelError: it is missing.
    """
    if not SHIPPED.is_file():
        raise ModelError(f"{SHIPPED} is missing", "install imagic again, or train it: make sketchbook")
    judge = Judge(Sizes().judge).eval()
    judge.load_state_dict({name: value.float() for name, value in load_file(SHIPPED).items()})
    return judge


def agreement(seen: Sight, wanted: Sight) -> dict[str, bool]:
    """For each field whether it is as wanted; a colour that should not show is left out."""
    return {name: getattr(seen, name) == value for name, value in vars(wanted).items() if value is not None}
