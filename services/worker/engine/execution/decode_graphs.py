"""Decode steps as recordings: one for each size of batch, with inputs that lie in the same memory every time.

Launching a small model's kernels one by one takes longer than running them; a replay is one launch. A step is padded
to the next recorded size; padding has no context and writes where nobody reads.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from services.worker.engine.device_transfer import PackedArrays
from services.worker.engine.execution.graph_capture import GraphCapture
from services.worker.engine.execution.step_inputs import StepArrays, StepInputs, StepTensors, step_tensors

Compute = Callable[[StepTensors], tuple[torch.Tensor, torch.Tensor]]
"""Hidden states [T, E] and logits [T, V] of a step of single tokens."""


def bucket_sizes(max_rows: int) -> list[int]:
    """1, 2, 4, 8, then every 8: at most 7 rows are computed for nobody."""
    return sorted({size for size in (1, 2, 4, *range(8, max_rows, 8)) if size < max_rows} | {max_rows})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bucket:
    """`inputs` uint8 on the device: what `packing` says, all of it views of one buffer."""

    packing: PackedArrays
    inputs: torch.Tensor
    outputs: tuple[torch.Tensor, ...]
    replay: Callable[[], None]


class DecodeGraphs:
    def __init__(
        self,
        compute: Compute,
        capture: GraphCapture,
        *,
        max_rows: int,
        num_columns: int,
        num_groups: int,
        block_size_tokens: int,
        spare_slot: int,
        device: torch.device,
    ) -> None:
        """`num_columns`: of the widest block table there can be. Records every size; takes seconds on a card."""
        self._num_columns = num_columns
        self._spare_slot = spare_slot
        self._block_size_tokens = block_size_tokens
        self._device = device
        self.sizes = bucket_sizes(max_rows)
        # The largest first: the others fit in its memory.
        self._buckets = {
            size: self._record(compute, capture, self._empty_step(size, num_groups)) for size in reversed(self.sizes)
        }

    def run(self, inputs: StepInputs) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Hidden states and logits of all rows, valid until the next run; None for a step that was not recorded."""
        num_rows = len(inputs.items)
        if not inputs.is_all_single or num_rows > self.sizes[-1]:
            return None
        size = self.sizes[bisect.bisect_left(self.sizes, num_rows)]
        bucket = self._buckets[size]
        arrays = inputs.arrays.padded(size, num_columns=self._num_columns, spare_slot=self._spare_slot)
        bucket.inputs.copy_(bucket.packing.pack(arrays.flat()), non_blocking=True)
        bucket.replay()
        hidden, logits = bucket.outputs
        return hidden[:num_rows], logits[:num_rows]

    def _empty_step(self, size: int, num_groups: int) -> StepArrays:
        nothing = StepArrays(
            token_ids=np.zeros(0, dtype=np.int64),
            positions=np.zeros(0, dtype=np.int64),
            slots=[np.zeros(0, dtype=np.int64)] * num_groups,
            context_lengths=np.zeros(0, dtype=np.int32),
            query_starts=np.zeros(1, dtype=np.int32),
            block_tables=[np.zeros((0, self._num_columns), dtype=np.int32)] * num_groups,
        )
        return nothing.padded(size, num_columns=self._num_columns, spare_slot=self._spare_slot)

    def _record(self, compute: Compute, capture: GraphCapture, arrays: StepArrays) -> _Bucket:
        packing = PackedArrays.like(arrays.flat())
        inputs = packing.pack(arrays.flat()).to(self._device)
        tensors = step_tensors(
            packing.unpack(inputs),
            arrays,
            run_starts=list(range(len(arrays.token_ids) + 1)),
            block_size_tokens=self._block_size_tokens,
        )
        outputs, replay = capture.record(lambda: compute(tensors))
        return _Bucket(packing=packing, inputs=inputs, outputs=outputs, replay=replay)
