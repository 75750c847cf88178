"""CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch


def captured(work: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """A graph of what `work` launches, which is not run; what it makes lies where every replay puts it anew.

    It reads and writes memory where that was when it was captured: somebody must hold all of it for as long.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph
