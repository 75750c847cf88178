"""A replayed step is the eager one: the same bits where it is only replayed, the same numbers with other kernels."""

from __future__ import annotations

import gc
import platform
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from drive import done
from torch import Tensor, nn
from torch.nn.functional import conv2d

from imagic_cli import backends, onednn, tuning
from imagic_cli.artifacts import Embeddings, Samples, Weights
from imagic_cli.backends.base import Level
from imagic_cli.backends.source import find
from imagic_cli.config import FinetuneSettings, ModelSource
from imagic_cli.embedding import Embedding
from imagic_cli.fit import fit
from imagic_cli.noise import Stream
from imagic_cli.onednn import hasten
from imagic_cli.precision import Precision
from imagic_cli.program import program
from imagic_cli.recording import NotRecordableError, Recording, record
from imagic_cli.replay import Replayed, is_replayed, replayed_passes
from imagic_cli.stages import generate, training
from imagic_cli.stages.objective import Drawn, denoising_loss, draw
from imagic_cli.updates import Updates

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)
TEXT = "a bird spreading wings"
MODELS = [("sd", "base"), ("sdxl", "base"), ("sdv", "base"), ("cascade", "base"), ("cascade", "sr16-32")]


class Case:
    """A level of a model, one photograph and one text; what is trained is as in a stage."""

    def __init__(self, source: str, name: str, what: str) -> None:
        backend = backends.load(find(ModelSource(source=source)))
        self.level: Level = backend.level(FP32, what != "A", name)
        side = 128 if source == "sketchbook" else 32
        self.clean: Tensor = backend.codec(CPU, name).encode(torch.rand(1, 3, side, side) * 2 - 1)
        self.e: Embedding = backend.encode([TEXT], CPU)[0].embedding
        if what == "A":
            self.e = self.e.leaves()
            self.leaves = list(self.e.tensors().values())
        else:
            found = tuning.leaves(self.level.module, FinetuneSettings(steps=1, learning_rate=1e-3, method=what))
            if what == "lora":
                tuning.initialise(found, Stream(0, "test").at(0))
                # Else half of the gradients are zero.
                with torch.no_grad():
                    for leaf in found.values():
                        leaf.add_(0.01)
            self.leaves = list(found.values())

    def drawn(self, step: int, batch: int = 1) -> Drawn:
        return draw(self.level, self.clean, batch, Stream(0, "train").at(step))

    def loss(self, drawn: Drawn) -> Tensor:
        return denoising_loss(self.level, self.clean, self.e, drawn, FP32)

    def recording(self, drawn: Drawn) -> Recording:
        return record(drawn.tensors(), self.leaves, lambda: self.loss(drawn))

    def wanted(self, drawn: Drawn) -> tuple[Tensor, list[Tensor]]:
        loss = self.loss(drawn)
        return loss.detach(), list(torch.autograd.grad(loss, self.leaves))

    def found(self, recording: Recording, drawn: Drawn) -> tuple[Tensor, list[Tensor]]:
        told: dict[int, Tensor] = {}
        losses: list[Tensor] = []
        run = program(recording, losses.append, told.__setitem__)
        with torch.no_grad():
            loss = run(*drawn.tensors())
        assert losses == [loss]
        return loss, [told[place] for place in range(len(self.leaves))]

    def check(self, drawn: Drawn, loss: Tensor, gradients: list[Tensor]) -> None:
        """They are autograd's but for rounding, and laid out like the leaves."""
        wanted, autograd = self.wanted(drawn)
        assert torch.allclose(loss, wanted, rtol=1e-5)
        for mine, theirs, leaf in zip(gradients, autograd, self.leaves, strict=True):
            assert (mine - theirs).norm() <= 1e-4 * theirs.norm() + 1e-7
            assert mine.stride() == leaf.stride()


@pytest.mark.parametrize("what", ["A", "full", "lora", "kv"])
@pytest.mark.parametrize(("family", "name"), MODELS)
def test_a_recorded_step_gives_for_another_draw_the_bits_of_autograd(
    models: Path, family: str, name: str, what: str
) -> None:
    case = Case(str(models / family), name, what)
    recording = case.recording(case.drawn(1))
    drawn = case.drawn(2)
    loss, gradients = case.found(recording, drawn)
    wanted, autograd = case.wanted(drawn)
    assert torch.equal(loss, wanted)
    for mine, theirs, leaf in zip(gradients, autograd, case.leaves, strict=True):
        assert torch.equal(mine, theirs)
        # As an optimizer needs it that goes through memory.
        assert mine.stride() == leaf.stride()


@pytest.mark.parametrize(("batch", "checkpointing"), [(1, False), (3, True)])
@pytest.mark.parametrize("what", ["A", "full", "lora"])
@pytest.mark.parametrize(("family", "name"), [*MODELS, ("sketchbook", "base"), ("sketchbook-cascade", "sr32-128")])
def test_other_kernels_give_the_same_numbers(
    models: Path, monkeypatch: pytest.MonkeyPatch, family: str, name: str, what: str, batch: int, checkpointing: bool
) -> None:
    # There are more of them where torch's own are slow.
    monkeypatch.setattr(onednn, "is_halved", lambda: True)
    case = Case(family if family.startswith("sketchbook") else str(models / family), name, what)
    if checkpointing:
        case.level.module.enable_gradient_checkpointing()
    recording = case.recording(case.drawn(1, batch))
    hasten(recording)
    drawn = case.drawn(2, batch)
    loss, gradients = case.found(recording, drawn)
    case.check(drawn, loss, gradients)


def functions(recording: Recording) -> set[object]:
    return {node.target for node in recording.operations()}


def test_the_bundled_model_has_none_of_its_large_operations_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_halved", lambda: True)
    packed, plain = torch.ops.mkldnn._convolution_pointwise.default, torch.ops.aten.convolution.default
    a, b = (Case("sketchbook", "base", what) for what in ("A", "full"))
    first, second = (case.recording(case.drawn(1)) for case in (a, b))
    assert plain in functions(first)
    before = functions(first)
    for place, name, value in ((torch.backends.mkldnn, "is_available", False), (platform, "machine", "arm64")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, lambda value=value: value)
            hasten(first)
        assert functions(first) == before
    hasten(first)
    assert {packed, onednn.linear} < functions(first)
    assert plain not in functions(first)
    hasten(second)
    ours = {onednn.linear, onednn.convolution, onednn.inner_gradient, onednn.weight_gradient}
    assert ours < functions(second)
    # Their weights change at every step.
    assert packed not in functions(second)


def test_where_its_products_are_fast_torch_keeps_all_but_frozen_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_halved", lambda: False)
    a, b = (Case("sketchbook", "base", what) for what in ("A", "full"))
    first, second = (case.recording(case.drawn(1)) for case in (a, b))
    before, of_b = functions(first), functions(second)
    hasten(first)
    packed, plain = torch.ops.mkldnn._convolution_pointwise.default, torch.ops.aten.convolution.default
    assert {torch.ops.aten.mm.default, torch.ops.aten.addmm.default} < functions(first)
    assert {packed} == functions(first) - before
    assert plain not in functions(first)
    weights = [first.values[node.args[1]] for node in first.operations() if node.target == packed]
    # The gradients of two pictures are parts of larger ones, and do not lie in rows.
    assert sum(each.shape[2:] == (1, 1) for each in weights) == 2
    hasten(second)
    assert functions(second) == of_b


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("height", "width", "channels"), [(4, 4, 5), (5, 3, 5), (1, 2, 5), (7, 6, 70)])
def test_convolutions_as_products_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch, kernel: int, height: int, width: int, channels: int
) -> None:
    # Else the small ones would go to torch.
    monkeypatch.setattr(onednn, "_PRODUCT", 0)

    def picture(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float32).contiguous(memory_format=torch.channels_last)

    torch.manual_seed(0)
    x, w = picture(1, channels, height, width), picture(60, channels, kernel, kernel)
    b, outer = torch.randn(60), picture(1, 60, height, width)
    for each in (x, w):
        each.requires_grad_()
    wanted = conv2d(x, w, b, padding=kernel // 2)
    to_x, to_w = torch.autograd.grad(wanted, (x, w), outer)
    x, w = x.detach(), w.detach()
    found = (
        (onednn.convolution(x, w, b), wanted),
        (onednn.convolution(x, w, None), wanted - b.view(1, -1, 1, 1)),
        (onednn.inner_gradient(outer, w), to_x),
        (onednn.weight_gradient(outer, x, kernel), to_w),
    )
    for mine, theirs in found:
        assert torch.allclose(mine, theirs, atol=1e-4)
        assert mine.is_contiguous(memory_format=torch.channels_last)


def test_a_leaf_may_change_as_soon_as_its_gradient_is_told() -> None:
    case = Case("sketchbook", "base", "full")
    recording = case.recording(case.drawn(1))
    hasten(recording)
    drawn = case.drawn(2)
    wanted, autograd = case.wanted(drawn)
    told: dict[int, Tensor] = {}

    def take(place: int, gradient: Tensor) -> None:
        told[place] = gradient.clone()
        case.leaves[place].fill_(float("nan"))

    run = program(recording, lambda _loss: None, take)
    with torch.no_grad():
        loss = run(*drawn.tensors())
    assert torch.allclose(loss, wanted, rtol=1e-5)
    for place, theirs in enumerate(autograd):
        assert (told[place] - theirs).norm() <= 1e-4 * theirs.norm() + 1e-7
    assert all(leaf.isnan().all() for leaf in case.leaves)


def test_the_loss_is_told_before_any_gradient() -> None:
    w, x = torch.ones(3, requires_grad=True), torch.ones(3)
    recording = record([x], [w], lambda: (w * x).square().sum())
    told: list[float] = []

    def refuse(loss: Tensor) -> None:
        told.append(loss.item())
        raise ArithmeticError

    run = program(recording, refuse, lambda _place, _gradient: told.append(0))
    with torch.no_grad(), pytest.raises(ArithmeticError):
        run(2 * x)
    assert told == [12]


def test_what_has_no_part_in_the_loss_has_no_gradient() -> None:
    w, other, x = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True), torch.ones(3)
    recording = record([x], [other, w], lambda: (w * x).sum())
    told: dict[int, Tensor] = {}
    with torch.no_grad():
        program(recording, lambda _loss: None, told.__setitem__)(5 * x)
    assert {place: gradient.tolist() for place, gradient in told.items()} == {1: [5, 5, 5]}


@dataclass(frozen=True)
class Numbers:
    """A draw of a few."""

    x: Tensor

    def tensors(self) -> list[Tensor]:
        return [self.x]


def numbers(generator: torch.Generator) -> Numbers:
    return Numbers(torch.randn(3, generator=generator))


@pytest.mark.parametrize(
    "loss", [lambda w, x: w.square().sum() * x.sum().item(), lambda w, x: (w * x.clone().add_(1)).square().sum()]
)
def test_what_would_not_hold_for_another_draw_is_not_replayed(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = []
    for replayed in (False, True):
        w = torch.ones(3, requires_grad=True)
        updates = Updates([w], partial(torch.optim.Adam, lr=0.1, fused=True))

        def plain(drawn: Numbers, w: Tensor = w) -> Tensor:
            return loss(w, drawn.x)

        objective = Replayed(plain, [w], updates) if replayed else plain
        with pytest.raises(NotRecordableError):
            record([torch.ones(3)], [w], lambda: loss(w, torch.ones(3)))  # noqa: B023
        steps = [step.loss for step in fit(updates, numbers, objective, 4, Stream(0, "train"))]
        found.append((steps, w.tolist()))
    assert found[0] == found[1]


def test_a_division_by_one_that_lays_its_result_out_anew_is_kept() -> None:
    w, x = torch.ones(3, 4, requires_grad=True), torch.ones(3, 4)
    recording = record([x], [w], lambda: ((w * x)[:, :2] / 1).view(-1).square().sum())
    told: dict[int, Tensor] = {}
    with torch.no_grad():
        assert program(recording, lambda _loss: None, told.__setitem__)(3 * x) == 54
    assert told[0][:, :2].eq(18).all()
    assert told[0][:, 2:].eq(0).all()


def test_frozen_weights_are_brought_into_another_order_once() -> None:
    sizes = []
    for checkpointing in (False, True):
        case = Case("sketchbook", "base", "A")
        if checkpointing:
            case.level.module.enable_gradient_checkpointing()
        recording = case.recording(case.drawn(1))
        hasten(recording)
        nodes = set(recording.graph.nodes)
        packed = {id(value): value for node, value in recording.values.items() if node in nodes}
        sizes.append(sum(value.is_mkldnn for value in packed.values()))
    assert sizes[0] == sizes[1] > 50


def test_nothing_of_a_step_outlives_it() -> None:
    w, x, frozen = torch.ones(1000, requires_grad=True), torch.ones(1000), torch.ones(1000)
    kept = weakref.ref(frozen)

    def loss(frozen: Tensor = frozen) -> Tensor:
        return (w * x * frozen).square().sum()

    run = program(record([x], [w], loss), lambda _loss: None, lambda _place, _gradient: None)
    del frozen, loss
    gc.collect()
    assert kept() is not None
    with torch.no_grad():
        run(x)
    del run
    gc.collect()
    assert kept() is None


def test_steps_are_replayed_where_they_are_small() -> None:
    small = nn.Linear(2, 2)
    assert is_replayed(FP32, small)
    assert not is_replayed(Precision("bf16", CPU), small)
    assert not is_replayed(Precision("fp32", torch.device("cuda")), small)
    with torch.device("meta"):
        assert not is_replayed(FP32, nn.Linear(10_000, 10_000))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_replayed_run_comes_to_what_an_eager_one_does(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    recorded: list[object] = []
    prepare = Replayed._recorded

    def counted(replayed: Replayed[Drawn], drawn: Drawn) -> Callable[..., Tensor]:
        recorded.append(replayed)
        return prepare(replayed, drawn)

    monkeypatch.setattr(Replayed, "_recorded", counted)
    for run in ("replayed", "eager"):
        if run == "eager":
            monkeypatch.setattr(training, "is_replayed", lambda *_: False)
        done("optimize", photo, TEXT, "--model", models / "sd", "--run", run, "--steps", 5, "--batch", 2)
        done("finetune", "--run", run, "--steps", 5, "--method", method, "--lr", "1e-4", "--delta-dtype", "fp32")
    assert len(recorded) == 2
    e, eager = (Embeddings.load(Path(run, "embeddings.safetensors")).content for run in ("replayed", "eager"))
    moved = (eager.optimized.tokens - eager.target.tokens).norm()
    assert (e.optimized.tokens - eager.optimized.tokens).norm() < 1e-3 * moved
    theta, theirs = (Weights.load(Path(run, "weights.safetensors")).content.deltas for run in ("replayed", "eager"))
    assert theta.keys() == theirs.keys()
    for name, delta in theirs.items():
        assert (theta[name] - delta).norm() <= 1e-2 * delta.norm() + 1e-7, name


class Forward:
    """A denoiser's own pass, counted."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.own = denoiser.forward
        self.times = 0

    def __call__(self, *arguments: object, **options: object) -> object:
        self.times += 1
        return self.own(*arguments, **options)


def passed(case: Case, step: int, batch: int = 1) -> tuple[Any, dict[str, Any]]:
    """What a denoiser is given by its level, asked for its answer as the pipelines ask for it."""
    told: list[tuple[Any, dict[str, Any]]] = []
    handle = case.level.module.register_forward_pre_hook(
        lambda _module, arguments, options: told.append((arguments, options)), with_kwargs=True
    )
    case.loss(case.drawn(step, batch))
    handle.remove()
    ((arguments, options),) = told
    return arguments, options | {"return_dict": False}


@pytest.mark.parametrize("kernels", ["torch's", "oneDNN's"])
@pytest.mark.parametrize(("family", "name"), [*MODELS, ("sketchbook", "base"), ("sketchbook-cascade", "sr32-128")])
def test_a_pass_is_recorded_once_for_one_shape_after_another(
    models: Path, monkeypatch: pytest.MonkeyPatch, family: str, name: str, kernels: str
) -> None:
    if kernels == "torch's":
        monkeypatch.setattr(onednn, "is_there", lambda: False)
    case = Case(family if family.startswith("sketchbook") else str(models / family), name, "A")
    denoiser = case.level.module
    given = [passed(case, step, batch) for batch in (1, 2) for step in (1, 2, 3)]
    with torch.no_grad():
        wanted = [denoiser(*arguments, **options)[0] for arguments, options in given]
    forward = Forward(denoiser)
    denoiser.forward = forward
    with replayed_passes([denoiser]):
        for (arguments, options), theirs in zip(given, wanted, strict=True):
            (mine,) = denoiser(*arguments, **options)
            if kernels == "torch's":
                assert torch.equal(mine, theirs)
            assert torch.allclose(mine, theirs, atol=1e-4)
            # The pipelines do so.
            mine += 1
    assert forward.times == 2


@pytest.mark.parametrize("result", [lambda x: (x * x.sum().item(),), lambda x: (x * 2, None), lambda x: x * 2])
def test_what_cannot_be_recorded_is_made_as_before(result: Callable[[Tensor], object]) -> None:
    class Denoiser(nn.Module):
        def forward(self, x: Tensor) -> object:
            return result(x)

    denoiser = Denoiser()
    with replayed_passes([denoiser]):
        for number in (1.0, 2.0):
            x = torch.full((2,), number)
            for mine, theirs in zip(denoiser(x), result(x), strict=True):
                assert mine is theirs is None or torch.equal(mine, theirs)


def test_what_follows_a_convolution_finds_its_result_in_the_order_that_was_recorded() -> None:
    torch.manual_seed(0)
    convolution, rows = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(16, 16)

    class Denoiser(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (rows(convolution(x)),)

    x, y = torch.randn(2, 1, 8, 16, 16)
    leaves = [*convolution.parameters(), *rows.parameters()]
    recording = record([x], leaves, lambda: Denoiser()(x)[0].square().sum())
    hasten(recording)
    told: dict[int, Tensor] = {}
    with torch.no_grad():
        program(recording, lambda _loss: None, told.__setitem__)(y)
    for place, wanted in enumerate(torch.autograd.grad(Denoiser()(y)[0].square().sum(), leaves)):
        assert (told[place] - wanted).norm() <= 1e-5 * wanted.norm()
    for leaf in leaves:
        leaf.requires_grad_(False)
    denoiser = Denoiser()
    with replayed_passes([denoiser]):
        denoiser(x)
        assert torch.allclose(denoiser(y)[0], rows(convolution(y)), atol=1e-5)


def test_one_tensor_given_twice_is_told_from_two() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor]:
            return (x + 10 * y,)

    one, two, denoiser = torch.ones(2), torch.full((2,), 2.0), Sum()
    with replayed_passes([denoiser]):
        assert [denoiser(*given)[0].tolist() for given in ((one, one), (one, two), (two, two))] == [
            [11] * 2,
            [21] * 2,
            [22] * 2,
        ]


def packed() -> int:
    """How many tensors in oneDNN's order there are."""
    return sum(type(each) is Tensor and each.is_mkldnn for each in gc.get_objects())


def test_weights_go_with_their_shape_and_their_denoiser(models: Path) -> None:
    case = Case(str(models / "sd"), "base", "A")
    given = [passed(case, 1, batch) for batch in (1, 2)]
    gc.collect()
    # A collection comes when it will: until then two models would be in memory.
    gc.disable()
    try:
        before, found = packed(), []
        with replayed_passes([case.level.module]):
            for arguments, options in given:
                case.level.module(*arguments, **options)
                found.append(packed() - before)
        assert found[0] == found[1]
        assert bool(found[0]) == onednn.is_there()
        assert packed() == before
        weight = weakref.ref(next(case.level.module.parameters()))
        del case
        assert weight() is None
    finally:
        gc.enable()


def test_replayed_samples_are_those_of_the_model_and_do_not_depend_on_what_was_sampled_before(
    photo: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("optimize", photo, TEXT, "--model", models / "sd", "--run", "run", "--steps", 1)
    passes: list[nn.Module] = []
    monkeypatch.setattr(
        generate,
        "replayed_passes",
        lambda denoisers: replayed_passes(passes.append(each) or each for each in denoisers),
    )
    found = []
    for replayed, seeds in ((True, ["--seeds", 3]), (True, ["--seed", 2]), (False, ["--seeds", 3])):
        if not replayed:
            monkeypatch.setattr(generate, "are_passes_replayed", lambda *_: False)
        done("generate", "--run", "run", "--pretrained", "--eta", 0.7, "--steps", 4, *seeds, "--force")
        (file,) = Path("run").rglob("samples.safetensors")
        found.append(Samples.load(file).content.clean["0.700", 2])
    together, alone, eager = found
    assert torch.equal(together, alone)
    assert torch.allclose(together, eager, atol=1e-3)
    assert len(passes) == 2
