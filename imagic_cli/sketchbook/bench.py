"""`imagic bench sketchbook`: edits of held-out scenes by every method, judged against the true answer.

Every method works with the same pretrained model, sampler, guidance and number of tries.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageFilter

from imagic_cli import backends, files
from imagic_cli.backends.source import BUNDLED_CLIP
from imagic_cli.config import How, ModelFlags
from imagic_cli.evaluation.alignment import ClipScore
from imagic_cli.evaluation.baselines import Reworks, ddib, sdedit
from imagic_cli.evaluation.fidelity import Mask, psnr, ssim, unchanged
from imagic_cli.evaluation.settings import keep_to
from imagic_cli.evaluation.silent import Recipe, resolved, sampled, tuned
from imagic_cli.events import Listener, Note
from imagic_cli.image import to_images
from imagic_cli.names import BASE
from imagic_cli.precision import Precision, pick_device
from imagic_cli.resolve import Edit
from imagic_cli.signals import continued
from imagic_cli.sketchbook.corpus import tensor
from imagic_cli.sketchbook.judge import Judge, agreement, load, truth
from imagic_cli.sketchbook.pairs import Pair, pair
from imagic_cli.stages.objective import encode_image
from imagic_cli.sweep import Item, check_strengths

ETAS = ("0.600", "0.700", "0.800")
SEEDS = 8
# The curve over eta averages over pairs: it needs fewer seeds than the picking of one good picture.
CURVE = tuple(f"{tenths / 10:.3f}" for tenths in range(11))
CURVE_SEEDS = 2
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# DDIB has no seed: its tries differ in guidance.
GUIDANCES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
# Around what the true answer changes, so that an outline drawn a pixel away is no loss of fidelity.
MARGIN = 3
BLUR = 2.0


@dataclass(frozen=True)
class Try:
    """One picture that a method made of a pair: `setting` is its eta, strength or guidance."""

    method: str
    setting: float
    seed: int
    image: Image.Image


@dataclass(frozen=True)
class Score:
    """What a try is worth.

    Attributes:
        success: the judge sees the changed field as asked and every other as it was.
        changed: the changed field alone.
        answer_psnr: to the true answer, dB.
        answer_ssim: to the true answer.
        kept_psnr: to the input, dB, outside what the true answer changes.
        clip: text alignment by the bundled CLIP.
    """

    method: str
    setting: float
    seed: int
    success: bool
    changed: bool
    answer_psnr: float
    answer_ssim: float
    kept_psnr: float
    clip: float


@dataclass(frozen=True)
class Bench:
    """Where the results go, and what is edited with.

    Attributes:
        folder: one JSON file and one strip of pictures per pair.
        model: as for `imagic optimize`.
        recipe: of the three stages; pictures of the scenes' own size.
        full: whether the texts name all that has to stay.
        how: device and the like.
        tell: who listens.
    """

    folder: Path
    model: ModelFlags
    recipe: Recipe
    full: bool
    how: How
    tell: Listener

    def run(self, numbers: Sequence[int]) -> None:
        """Edit and judge every pair whose result is not there yet.

        Raises:
            InputError: there are results of other settings in the folder.
            UsageError: the sampler has too few steps for SDEdit.
            ImagicError: a stage failed or was stopped; the pairs before are kept.
        """
        self._check_settings(pair(numbers[0], self.full))
        todo = [number for number in numbers if not self.result_file(number).exists()]
        panel = Panel(load(), ClipScore(BUNDLED_CLIP)) if todo else None
        began = time.monotonic()
        for done, number in enumerate(todo):
            assert panel is not None
            edit = pair(number, self.full)
            with continued():
                scores = self._pair(edit, panel)
            left = (time.monotonic() - began) / (done + 1) * (len(todo) - done - 1)
            right = sum(score.success for score in scores if score.method == "imagic")
            count = sum(score.method == "imagic" for score in scores)
            self.tell(
                Note(f"pair {number}: {edit.text}: {right} of {count} right; {done + 1} of {len(todo)}, {_clock(left)}")
            )

    def result_file(self, number: int) -> Path:
        """Where a pair's scores are."""
        return self.folder / f"pair-{number:04d}.json"

    def _check_settings(self, edit: Pair) -> None:
        with TemporaryDirectory() as place:
            picture = Path(place) / "before.png"
            edit.before.draw().save(picture)
            ready = resolved(picture, edit.text, Path(place) / "run", self.model, self.recipe, self.how)
        if isinstance(backends.load(ready.model), Reworks):
            check_strengths(STRENGTHS, ready.record.generate.steps)
        self.folder.mkdir(parents=True, exist_ok=True)
        keep_to(self.folder, ready.record, full=self.full)

    def _pair(self, edit: Pair, panel: Panel) -> list[Score]:
        work = self.folder / f"work-{edit.number:04d}"
        work.mkdir(exist_ok=True)
        picture = work / "before.png"
        edit.before.draw().save(picture)
        made = [*trivial(edit), *self._edits(edit, picture, work)]
        scores = panel.scores(edit, made)
        strip(edit, made, scores).save(self.folder / f"pair-{edit.number:04d}.png")
        told = {"text": edit.text, "field": edit.field, "scores": [asdict(score) for score in scores]}
        files.commit_bytes(self.result_file(edit.number), json.dumps(told, indent=1).encode())
        shutil.rmtree(work)
        return scores

    def _edits(self, edit: Pair, picture: Path, work: Path) -> Iterator[Try]:
        full = tuned(picture, edit.text, work / "full", self.model, self.recipe, self.how)
        grid = [(eta, seed) for eta in ETAS for seed in range(SEEDS)]
        curve = [(eta, seed) for eta in CURVE if eta not in ETAS for seed in range(CURVE_SEEDS)]
        yield from self._sampled("imagic", full, curve)
        yield from self._sampled("imagic", full, grid)
        yield from self._sampled("B off", full, grid, pretrained=True)
        yield from self._sampled("text to image", full, [("1.000", seed) for seed in range(SEEDS)], pretrained=True)
        # With e_opt = e_tgt eta means nothing: as many tries come from as many seeds.
        without = replace(self.recipe, optimize={**self.recipe.optimize, "steps": 0})
        alone = tuned(picture, edit.text, work / "a-off", self.model, without, self.how)
        yield from self._sampled("A off", alone, [("1.000", seed) for seed in range(len(grid))])
        yield from self._others(edit, full)

    def _sampled(self, method: str, ready: Edit, items: Sequence[Item], pretrained: bool = False) -> Iterator[Try]:
        pictures = sampled(ready, items, self.how, pretrained)
        for eta, seed in items:
            with Image.open(pictures.path((eta, seed))) as image:
                yield Try(method, float(eta), seed, image.convert("RGB"))

    def _others(self, edit: Pair, ready: Edit) -> Iterator[Try]:
        sampling = ready.record.generate
        precision = Precision(sampling.dtype, pick_device(self.how.device))
        backend = backends.load(ready.model)
        # A cascade has no image-to-image pipeline here: it is set beside its own ablations alone.
        if not isinstance(backend, Reworks):
            return
        clean = encode_image(backend, ready.image, precision.device, BASE)
        # DDIB keeps what neither of its texts names: a full caption as the source kept up to 11 dB less.
        found = backend.encode([edit.source, edit.text, None], precision.device)
        source, target, null = (each.embedding for each in found)
        level, codec = backend.level(precision, trainable=False), backend.codec(precision.device)
        seeds = range(SEEDS)
        for strength in STRENGTHS:
            made = sdedit(backend, level, clean, target, null, strength, seeds, sampling, precision)
            for seed, image in zip(seeds, to_images(codec.decode(made)), strict=True):
                yield Try("SDEdit", strength, seed, image)
        for guidance in GUIDANCES:
            guided = sampling.model_copy(update={"guidance": guidance})
            made = ddib(backend, level, clean, source, target, null, guided, precision)
            yield Try("DDIB", guidance, 0, to_images(codec.decode(made))[0])


@dataclass(frozen=True)
class Panel:
    """Who looks at the pictures."""

    judge: Judge
    clip: ClipScore

    def scores(self, edit: Pair, made: Sequence[Try]) -> list[Score]:
        """The worth of every try."""
        answer, before = edit.after.draw(), edit.before.draw()
        same = unchanged(before, answer, MARGIN)
        aligned = self.clip([each.image for each in made], edit.text)
        return [self._score(edit, each, answer, before, same, clip) for each, clip in zip(made, aligned, strict=True)]

    def _score(self, edit: Pair, each: Try, answer: Image.Image, before: Image.Image, same: Mask, clip: float) -> Score:
        (seen,) = self.judge.see(tensor([np.asarray(each.image)]))
        right = agreement(seen, truth(edit.after))
        return Score(
            method=each.method,
            setting=each.setting,
            seed=each.seed,
            success=all(right.values()),
            changed=right[edit.field],
            # JSON knows no infinity.
            answer_psnr=min(99.0, psnr(each.image, answer)),
            answer_ssim=ssim(each.image, answer),
            kept_psnr=min(99.0, psnr(each.image, before, same)) if same.any() else float("nan"),
            clip=clip,
        )


def trivial(edit: Pair) -> Iterator[Try]:
    """Editors that bound every score: nobody who does nothing, or knows the answer, may look like a method."""
    before, answer = edit.before.draw(), edit.after.draw()
    yield Try("input unchanged", 0.0, 0, before)
    yield Try("answer blurred", 0.0, 0, answer.filter(ImageFilter.GaussianBlur(BLUR)))
    yield Try("half and half", 0.0, 0, Image.blend(before, answer, 0.5))


def strip(edit: Pair, made: Sequence[Try], scores: Sequence[Score]) -> Image.Image:
    """Input, true answer, and the best-judged picture of each method, side by side."""
    shown = [edit.before.draw(), edit.after.draw()]
    for method in dict.fromkeys(each.method for each in made):
        own = [(score, each.image) for score, each in zip(scores, made, strict=True) if each.method == method]
        best = max(own, key=lambda one: (one[0].success, one[0].answer_psnr))
        shown.append(best[1])
    sheet = Image.new("RGB", (sum(each.width + 2 for each in shown), shown[0].height), "white")
    for i, each in enumerate(shown):
        sheet.paste(each, (i * (each.width + 2), 0))
    return sheet


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.0f} min left"
