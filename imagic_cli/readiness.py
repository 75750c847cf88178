"""Kernels that a GPU's first step would wait for, built while the model loads.

On a machine that has never built them cuDNN takes most of a second for each form of attention, and Triton for each of
ours; both keep what they built. Each is built by a thread of its own here, all at once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from imagic_cli import fusion
from imagic_cli.backends.base import Backend
from imagic_cli.backends.digests import cache_folder
from imagic_cli.precision import Precision
from imagic_cli.stamps import canonical


@contextlib.contextmanager
def built_beside(
    backend: Backend, identity: str, size: tuple[int, int], level: str, batch: int, precision: Precision
) -> Iterator[None]:
    """Build what a half-precision training step needs on CUDA, while this is entered; leaving waits for it.

    Args:
        backend: the model's.
        identity: of the model; what was built for it once is not built again.
        size: width and height of the picture, pixels.
        level: which denoiser.
        batch: noised pictures of a step.
        precision: what it computes in.
    """
    if precision.device.type != "cuda" or precision.dtype == torch.float32:
        yield
        return
    of = [
        identity,
        *size,
        level,
        batch,
        precision.name,
        torch.__version__,
        torch.cuda.get_device_name(precision.device),
    ]
    mark = cache_folder() / "kernels" / hashlib.sha256(canonical(of).encode()).hexdigest()[:32]

    def build() -> None:
        # Whatever is not built here is built by the first step.
        with contextlib.suppress(Exception):
            if not mark.exists():
                _build(backend, size, level, batch, precision)
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()

    pool = _pool(precision.device, 1)
    pool.submit(build)
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _pool(device: torch.device, size: int | None = None) -> ThreadPoolExecutor:
    # Each thread begins with the first GPU as its own.
    return ThreadPoolExecutor(size, initializer=torch.cuda.set_device, initargs=(device.index or 0,))


def _build(backend: Backend, size: tuple[int, int], level: str, batch: int, precision: Precision) -> None:
    half, device = precision.dtype, precision.device
    works: list[Future[object]] = []
    with _pool(device) as pool:
        if fusion.is_there():
            from imagic_cli import adam, kernels

            # What is trained may be in fp32 and have no copies.
            updates = adam.builds(half, device) + adam.builds(torch.float32, device)
            works += [pool.submit(build) for build in kernels.builds(half, device) + updates]
        blank = backend.blank(*size, level)
        with torch.no_grad(), _Attentions(lambda form: works.append(pool.submit(_attend, form, precision))):
            blank.prediction(blank.embedding, batch)
        for work in works:
            work.result()


Form = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""Shape and strides of queries, keys and values."""


class _Attentions(TorchFunctionMode):
    """Tells each form of attention, without a mask, that a pass comes by."""

    def __init__(self, tell: Callable[[Form], object]) -> None:
        super().__init__()
        self.tell = tell
        self.told: set[Form] = set()

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is scaled_dot_product_attention and options.get("attn_mask") is None:
            given = [*args[:3], *(options[name] for name in ("query", "key", "value") if name in options)]
            form = tuple((tuple(each.shape), each.stride()) for each in given)
            if form not in self.told:
                self.told.add(form)
                self.tell(form)
        return func(*args, **options)


def _attend(form: Form, precision: Precision) -> None:
    given = [
        torch.empty_strided(shape, strides, dtype=precision.dtype, device=precision.device).zero_().requires_grad_()
        for shape, strides in form
    ]
    # Else one thread would make the gradients of all.
    with torch.autograd.set_multithreading_enabled(False):
        queries, keys, values = given
        found = scaled_dot_product_attention(queries, keys, values)
        torch.autograd.grad(found, given, torch.zeros_like(found))
