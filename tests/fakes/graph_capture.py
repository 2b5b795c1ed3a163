"""A graph capture for a CPU: records the operators that ran, with the very tensors, and runs them again.

Like a CUDA graph it knows addresses and Python's values at the time of the recording, nothing newer: what reads a
list, a shape or a number that changes later gives yesterday's answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Call = tuple[Any, tuple[Any, ...], dict[str, Any], Any]


class ReplayedOperators:
    """`services.worker.engine.execution.graph_capture.GraphCapture` for torch's own operators."""

    def __init__(self) -> None:
        self.num_recordings = 0
        self.num_replays = 0

    def record(self, compute: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.num_recordings += 1
        compute()
        with _Recording() as recording:
            outputs = compute()

        def replay() -> None:
            self.num_replays += 1
            with torch.inference_mode():
                for call in recording.calls:
                    _run_again(*call)

        return outputs, replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, result))
        return result


def _run_again(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Into the memory of the first result, unless that is a view or was written in place."""
    fresh = function(*args, **kwargs)
    inputs = {_address(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
    for old, new in zip(tree_leaves(result), tree_leaves(fresh), strict=True):
        if isinstance(old, torch.Tensor) and _address(old) not in inputs:
            old.copy_(new)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class RunAgain:
    """`GraphCapture` for what is not torch's own operators: computes again, into the memory of the first outputs."""

    def __init__(self) -> None:
        self.num_replays = 0

    def record(self, compute: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[Any, Callable[[], None]]:
        outputs = compute()

        def replay() -> None:
            self.num_replays += 1
            for old, new in zip(outputs, compute(), strict=True):
                old.copy_(new)

        return outputs, replay
