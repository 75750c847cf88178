"""Edits that look like one of the paper's two kinds of failure, told from the figures of their pictures alone.

The paper's limitations name an edit that is too subtle, and one that is made while zoom or camera angle change. Each
picture at an eta of the paper's useful range is set beside the edit's own picture of the same seed at its lowest eta,
which should be the photograph again: it gains text alignment, and it loses fidelity. How much of either is much is told
by the set. A picture meets the text if it gains anything at all, and at least half of the typical gain, the median over
the edits of the largest gain. The picture that decides on an edit is the most faithful of those that meet the text,
else the one that gains most; the typical loss is the median of theirs. Then an edit is

- too subtle, if none of its pictures meets the text, and the one that gains most loses no more than is typical;
- moved, if even the most faithful of those that meet the text loses more than twice what is typical;
- of neither kind otherwise: most edits, and those that go wrong in another way.

Half and twice are a choice, made to name candidates for people to look at: figures cannot see what a picture shows. A
set that fails as a whole has a typical edit that fails, which `Typical` shows; one edit alone is never moved. Edits
without text alignment, without an eta below 0.4 (up to which the paper finds almost the input) or without one in the
useful range are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from imagic_cli.evaluation.plots import USEFUL
from imagic_cli.evaluation.table import Table

INPUT_BELOW = 0.4
LITTLE = 0.5
FAR = 2.0


@dataclass(frozen=True)
class Advice:
    """Something to try, and the command for it: RUN is the edit's run directory."""

    what: str
    command: str


@dataclass(frozen=True)
class Kind:
    """A kind of failure.

    Attributes:
        name: of the kind.
        meaning: what the figures say of such an edit.
        advice: what can be done about it, the cheapest first.
    """

    name: str
    meaning: str
    advice: tuple[Advice, ...]


SUBTLE = Kind(
    "too subtle",
    "No picture in the useful range gains even half of the text alignment that the typical edit gains, and the one "
    "that gains most keeps the photograph at least as well as is typical.",
    (
        Advice("A larger eta; above 1 is legal.", "imagic sweep RUN --eta 0.8:1.1:0.05 --seed 0:8"),
        Advice("Other seeds: the best eta moves with the seed.", "imagic sweep RUN --eta 0.6:1:0.1 --seed 8:16"),
        Advice(
            "A gentler stage B, with fewer steps or a lower rate: the model holds on to the photograph too hard.",
            "imagic finetune --run RUN --steps FEWER --lr LOWER --force",
        ),
        Advice(
            "A longer stage A, if all etas look alike: its embedding has stayed beside the text's. Stage B follows.",
            "imagic optimize --run RUN --steps MORE --force",
        ),
    ),
)
MOVED = Kind(
    "moved",
    "The text is met, but every picture in the useful range that meets it loses more than twice the fidelity that is "
    "typical: the composition, the zoom or the camera may have changed with the edit. A text that asks for "
    "another place or style loses much as it should.",
    (
        Advice("Other seeds: framing changes with the noise.", "imagic sweep RUN --eta 0.5:0.8:0.05 --seed 8:16"),
        Advice("A smaller eta, in finer steps.", "imagic sweep RUN --eta 0.4:0.6:0.02 --seed 0:8"),
        Advice(
            "A text that also names what has to stay, all stages anew.", 'imagic edit IMAGE "TEXT IN THE SAME PLACE"'
        ),
        Advice(
            "More steps of stage B: the model holds on to the photograph too little.",
            "imagic finetune --run RUN --steps MORE --force",
        ),
    ),
)
KINDS = (SUBTLE, MOVED)


@dataclass(frozen=True)
class Look:
    """A picture in the useful range beside the one of its seed at the edit's lowest eta.

    Attributes:
        eta: of the picture, as it is written.
        seed: of both.
        lowest: eta of the other.
        aligned: text alignment of the other and of the picture, in the unit of its figure.
        faithful: fidelity to the photograph of the other and of the picture, in the unit of its figure.
    """

    eta: str
    seed: int
    lowest: str
    aligned: tuple[float, float]
    faithful: tuple[float, float]

    @property
    def gain(self) -> float:
        """Of text alignment."""
        return self.aligned[1] - self.aligned[0]

    @property
    def loss(self) -> float:
        """Of fidelity."""
        return self.faithful[0] - self.faithful[1]


@dataclass(frozen=True)
class Typical:
    """What the edits of a set gain and lose: medians over the edits.

    Attributes:
        gain: of text alignment, by each edit's picture that gains most.
        loss: of fidelity, by the picture that decides on each.
    """

    gain: float
    loss: float


@dataclass(frozen=True)
class Verdict:
    """What the figures say of an edit: its kind of failure, if any, and the picture that decides."""

    kind: Kind | None
    look: Look


@dataclass(frozen=True)
class Candidates:
    """What the figures say of a set.

    Attributes:
        verdicts: of every edit that can be judged, by name and in the set's order.
        typical: None where no edit can be.
    """

    verdicts: Mapping[str, Verdict]
    typical: Typical | None

    def worst(self, kind: Kind) -> list[str]:
        """The edits of a kind: those that gain least first, or that lose most; equal ones in the set's order."""
        looks = {name: verdict.look for name, verdict in self.verdicts.items() if verdict.kind is kind}
        return sorted(looks, key=lambda name: looks[name].gain if kind is SUBTLE else -looks[name].loss)


def candidates(tables: Mapping[str, Table]) -> Candidates:
    """The verdict on every edit of a set whose figures are of the same networks, by name."""
    looks = {name: _looks(table) for name, table in tables.items()}
    judged = {name: found for name, found in looks.items() if found}
    if not judged:
        return Candidates({}, None)
    gain = median(_nearest(found).gain for found in judged.values())
    deciding = {name: _deciding(found, gain) for name, found in judged.items()}
    typical = Typical(gain, median(look.loss for look in deciding.values()))
    return Candidates({name: _verdict(look, typical) for name, look in deciding.items()}, typical)


def _looks(table: Table) -> list[Look]:
    lowest = min((eta for eta, _seed in table.rows), key=float)
    if table.alignment is None or float(lowest) >= INPUT_BELOW:
        return []
    found = []
    for (eta, seed), row in table.rows.items():
        base = table.rows.get((lowest, seed))
        if base is not None and USEFUL[0] <= float(eta) <= USEFUL[1]:
            aligned, faithful = ((base[name], row[name]) for name in (table.alignment, table.fidelity))
            found.append(Look(eta, seed, lowest, aligned, faithful))
    return found


def _nearest(looks: Sequence[Look]) -> Look:
    return max(looks, key=lambda look: look.gain)


def _meets(look: Look, typical_gain: float) -> bool:
    return look.gain > 0 and look.gain >= LITTLE * typical_gain


def _deciding(looks: Sequence[Look], typical_gain: float) -> Look:
    met = [look for look in looks if _meets(look, typical_gain)]
    return min(met, key=lambda look: look.loss) if met else _nearest(looks)


def _verdict(look: Look, typical: Typical) -> Verdict:
    if not _meets(look, typical.gain):
        return Verdict(SUBTLE if look.loss <= typical.loss else None, look)
    # Where the typical edit loses nothing, any loss counts.
    return Verdict(MOVED if look.loss > FAR * max(typical.loss, 0) else None, look)
