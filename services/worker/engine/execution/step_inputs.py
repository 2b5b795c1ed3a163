"""From a scheduled batch to the tensors of one forward pass. Knows lists and where tensors live, not the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.batch import ScheduledBatch, ScheduledSequence
from services.worker.engine.device_transfer import upload_all
from services.worker.engine.sampling.draw import Draw

Positions = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepArrays:
    """What the model reads, still on the host; names and shapes are `StepLayout`'s.

    `slots` and `block_tables`: one for each group of layers, which differ in where the blocks lie.
    """

    token_ids: Positions
    positions: Positions
    slots: list[Positions]
    context_lengths: Lengths
    query_starts: Lengths
    block_tables: list[Lengths]

    def flat(self) -> list[npt.NDArray[Any]]:
        """In the order that `step_tensors` takes them."""
        return [
            self.token_ids,
            self.positions,
            self.context_lengths,
            self.query_starts,
            *self.slots,
            *self.block_tables,
        ]

    def padded(self, num_rows: int, *, num_columns: int, spare_slot: int) -> StepArrays:
        """A step of single tokens with more rows and wider tables: the same shapes whatever is in it.

        Added rows have no context and write to `spare_slot`, which nobody reads.
        """
        added = num_rows - len(self.token_ids)
        return StepArrays(
            token_ids=np.pad(self.token_ids, (0, added)),
            positions=np.pad(self.positions, (0, added)),
            slots=[np.pad(slots, (0, added), constant_values=spare_slot) for slots in self.slots],
            context_lengths=np.pad(self.context_lengths, (0, added)),
            query_starts=np.arange(num_rows + 1, dtype=np.int32),
            block_tables=[
                np.pad(table, ((0, added), (0, num_columns - table.shape[1]))) for table in self.block_tables
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTensors:
    """`token_ids` [T] int64; `layouts`: one for each group of layers."""

    token_ids: torch.Tensor
    layouts: list[StepLayout]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """The tokens of `items` in turn. `draws[i]` is from the logits of row `sampled_rows[i]`.

    A token that is verified counts as an item of its own, of one token: its row is computed as a decode's row is, so
    that a draft changes no bit of it. `scheduled` has every sequence once, in the same order.
    `run_starts`: the first of each sequence's single tokens, and where they end.
    """

    scheduled: list[ScheduledSequence]
    items: list[ScheduledSequence]
    arrays: StepArrays
    num_single: int
    run_starts: list[int]
    sampled_rows: list[int]
    draws: list[Draw]
    block_size_tokens: int

    @property
    def is_all_single(self) -> bool:
        """Every sequence has one new token: row s of everything is sequence s."""
        return self.num_single == len(self.items)

    def to(self, device: torch.device) -> StepTensors:
        """In one copy that nothing waits for."""
        tensors = upload_all(self.arrays.flat(), device)
        return step_tensors(tensors, self.arrays, run_starts=self.run_starts, block_size_tokens=self.block_size_tokens)


def step_tensors(
    tensors: list[torch.Tensor], arrays: StepArrays, *, run_starts: list[int], block_size_tokens: int
) -> StepTensors:
    """`tensors` are `arrays.flat()` on a device."""
    token_ids, positions, context_lengths, query_starts, *places = tensors
    num_groups = len(arrays.slots)
    context_length_list, query_start_list = arrays.context_lengths.tolist(), arrays.query_starts.tolist()
    layouts = [
        StepLayout(
            positions=positions,
            slots=slots,
            block_tables=block_tables,
            context_lengths=context_lengths,
            query_starts=query_starts,
            context_length_list=context_length_list,
            query_start_list=query_start_list,
            num_single=run_starts[-1],
            run_starts=run_starts,
            block_size_tokens=block_size_tokens,
        )
        for slots, block_tables in zip(places[:num_groups], places[num_groups:], strict=True)
    ]
    return StepTensors(token_ids=token_ids, layouts=layouts)


def prepare_inputs(batch: ScheduledBatch, *, block_size_tokens: int, judges_by_rejection: bool = False) -> StepInputs:
    """Single tokens first, each sequence's in turn."""
    scheduled = sorted(batch.items, key=lambda item: item.num_tokens > 1)
    items: list[ScheduledSequence] = []
    token_ids: list[int] = []
    positions: list[int] = []
    query_starts = [0]
    run_starts = [0]
    sampled_rows: list[int] = []
    draws: list[Draw] = []
    for item in scheduled:
        end = item.start + item.num_tokens
        token_ids.extend(item.sequence.token_ids[item.start : end])
        positions.extend(range(item.start, end))
        query_starts.append(query_starts[-1] + item.num_tokens)
        items.append(item)
        newest = query_starts[-1] - 1
        if drafted := item.draft.token_ids:
            num_drafted = len(drafted)
            token_ids.extend(drafted)
            positions.extend(range(end, end + num_drafted))
            query_starts.extend(range(newest + 2, newest + 2 + num_drafted))
            items.extend([item] * num_drafted)
            sampled_rows.extend(range(newest, newest + 1 + num_drafted))
            draws.extend(_draws_of_draft(item, judges_by_rejection=judges_by_rejection))
        else:
            sampled_rows += [newest] * len(item.samplers)
            draws += [Draw(sampler) for sampler in item.samplers]
        if item.num_tokens == 1:
            run_starts.append(query_starts[-1])
    places = np.array(positions, dtype=np.int64)
    rows = np.repeat(np.arange(len(items)), np.diff(query_starts))
    tables = [_block_tables(scheduled, group) for group in range(len(items[0].sequence.block_tables))]
    offsets = places % block_size_tokens
    arrays = StepArrays(
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=places,
        slots=[
            table[rows, places // block_size_tokens].astype(np.int64) * block_size_tokens + offsets for table in tables
        ],
        context_lengths=(places[np.array(query_starts[1:]) - 1] + 1).astype(np.int32),
        query_starts=np.array(query_starts, dtype=np.int32),
        block_tables=tables,
    )
    return StepInputs(
        scheduled=scheduled,
        items=items,
        arrays=arrays,
        num_single=run_starts[-1],
        run_starts=run_starts,
        sampled_rows=sampled_rows,
        draws=draws,
        block_size_tokens=block_size_tokens,
    )


def _draws_of_draft(item: ScheduledSequence, *, judges_by_rejection: bool) -> list[Draw]:
    """One behind the sequence, and one behind each token of its draft."""
    draft = item.draft
    draws = [Draw(item.sequence, draft.token_ids[:index]) for index in range(draft.length + 1)]
    if judges_by_rejection:
        of_rows = [None] * draft.length if draft.probabilities is None else list(draft.probabilities)
        for index, (token_id, probabilities) in enumerate(zip(draft.token_ids, of_rows, strict=True)):
            draws[index] = replace(draws[index], candidate=token_id, candidate_probabilities=probabilities)
    return draws


def _block_tables(scheduled: list[ScheduledSequence], group: int) -> Lengths:
    """[S, B] int32 by position in the sequence; 0 where there is no block, or none any more."""
    own = [item.sequence.block_tables[group] for item in scheduled]
    ends = [table.end for table in own]
    tables = np.zeros((len(scheduled), max(ends)), dtype=np.int32)
    for row, (table, end) in enumerate(zip(own, ends, strict=True)):
        tables[row, table.first : end] = table.block_ids
    if any(num_drafted := [len(item.draft.token_ids) for item in scheduled]):
        return np.repeat(tables, [1 + number for number in num_drafted], axis=0)
    return tables
