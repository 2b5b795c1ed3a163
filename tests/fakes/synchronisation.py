"""A CUDA device that is not there, and a guard that names every operator that would wait for it.

Tensors are fake (shapes, types and devices, no numbers), so the very code for a card runs on any machine. Triton
kernels are not run, only what they are given is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero"}
COPIES = {"aten._to_copy", "aten.copy_"}


class Synchronised(Exception):
    """An operator made the host wait for the device."""


class SynchronisationGuard(TorchDispatchMode):
    """Copies that wait are refused in both directions: a blocking upload waits for everything before it, too.

    `downloads` are the copies to the host that do not wait, by number of elements.
    """

    def __init__(self) -> None:
        super().__init__()
        self.downloads: list[int] = []
        self.num_operators = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = f"{function.namespace}.{function._schema.name.split('::')[1]}"
        self.num_operators += 1
        if name in READS:
            raise Synchronised(name)
        if name == "aten.index" and any(one is not None and one.dtype is torch.bool for one in args[1]):
            raise Synchronised(f"{name} with a mask, which counts")
        result = function(*args, **kwargs)
        if name in COPIES:
            self._look_at_copy(name, function, args, kwargs, result)
        return result

    def _look_at_copy(self, name: str, function: Any, args: Any, kwargs: Any, result: torch.Tensor) -> None:
        source = args[1] if name == "aten.copy_" else args[0]
        target = args[0] if name == "aten.copy_" else result
        if source.device.type == target.device.type:
            return
        given = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False)) | kwargs
        if not given.get("non_blocking", False):
            raise Synchronised(f"{name} from {source.device.type} to {target.device.type} that blocks")
        if target.device.type == "cpu":
            self.downloads.append(target.numel())


@contextmanager
def fake_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Inside, `cuda` is a device like any other. Yields the names of the Triton kernels that were launched."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    launched: list[str] = []

    def launcher(kernel: Any, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            tensors = [one for one in tree_leaves((args, options)) if isinstance(one, torch.Tensor)]
            assert all(tensor.device.type == "cuda" for tensor in tensors), "a kernel was given the host's memory"
            assert all(isinstance(size, int) and size > 0 for size in grid)
            launched.append(kernel.fn.__name__)

        return launch

    monkeypatch.setattr(InterpretedFunction, "__getitem__", launcher)
    monkeypatch.setattr(JITFunction, "__getitem__", launcher)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield launched
