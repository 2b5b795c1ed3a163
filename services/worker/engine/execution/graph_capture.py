"""Recording a computation once and replaying it with one call: CUDA graphs behind a protocol.

A recording holds addresses, not values: what changes between replays lies in tensors that are written in place.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

Outputs = tuple[torch.Tensor, ...]
_WARM_UP_RUNS = 2
"""Kernels are compiled and workspaces taken before the recording, where neither is allowed."""


class GraphCapture(Protocol):
    def record(self, compute: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        """`compute`'s outputs, and what fills them again. Called while loading, from the engine's thread; blocks.

        `compute` runs several times. It may not read from the device, nor choose by values that change later.
        Recordings share their memory: one's outputs are overwritten by another's replay.
        """


class CudaGraphCapture:
    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, compute: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_RUNS):
                compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = compute()
        self._pool = self._pool or graph.pool()
        return outputs, graph.replay
