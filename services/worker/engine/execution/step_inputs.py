"""From a scheduled batch to the tensors of one forward pass. Knows lists and where tensors live, not the model."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.batch import ScheduledBatch, ScheduledSequence
from services.worker.engine.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """`token_ids` [T] int64, of `items` in turn. `layouts`: one for each group of layers, which differ in where the
    blocks lie. Sampler i draws from the logits of row `sampled_rows[i]`."""

    token_ids: torch.Tensor
    items: list[ScheduledSequence]
    layouts: list[StepLayout]
    sampled_rows: list[int]
    samplers: list[Sequence]


def prepare_inputs(batch: ScheduledBatch, *, block_size_tokens: int, device: torch.device) -> StepInputs:
    items = sorted(batch.items, key=lambda item: item.num_tokens > 1)
    token_ids: list[int] = []
    positions: list[int] = []
    query_starts = [0]
    context_lengths: list[int] = []
    sampled_rows: list[int] = []
    samplers: list[Sequence] = []
    for item in items:
        end = item.start + item.num_tokens
        token_ids.extend(item.sequence.token_ids[item.start : end])
        positions.extend(range(item.start, end))
        query_starts.append(len(token_ids))
        context_lengths.append(end)
        sampled_rows.extend([len(token_ids) - 1] * len(item.samplers))
        samplers.extend(item.samplers)
    places = np.array(positions, dtype=np.int64)
    rows = np.repeat(np.arange(len(items)), np.diff(query_starts))
    shared = {
        "positions": torch.from_numpy(places).to(device),
        "context_lengths": torch.tensor(context_lengths, dtype=torch.int32, device=device),
        "query_starts": torch.tensor(query_starts, dtype=torch.int32, device=device),
    }
    layouts: list[StepLayout] = []
    for group in range(len(items[0].sequence.block_tables)):
        tables = _block_tables(items, group)
        slots = tables[rows, places // block_size_tokens].astype(np.int64) * block_size_tokens
        slots += places % block_size_tokens
        layouts.append(
            StepLayout(
                **shared,
                slots=torch.from_numpy(slots).to(device),
                block_tables=torch.from_numpy(tables).to(device),
                context_length_list=context_lengths,
                query_start_list=query_starts,
                num_single=sum(1 for item in items if item.num_tokens == 1),
                block_size_tokens=block_size_tokens,
            )
        )
    return StepInputs(
        items=items,
        token_ids=torch.tensor(token_ids, dtype=torch.int64, device=device),
        layouts=layouts,
        sampled_rows=sampled_rows,
        samplers=samplers,
    )


def _block_tables(items: list[ScheduledSequence], group: int) -> npt.NDArray[np.int32]:
    """[S, B] int32 by position in the sequence; 0 where there is no block, or none any more."""
    own = [item.sequence.block_tables[group] for item in items]
    tables = np.zeros((len(items), max(table.end for table in own)), dtype=np.int32)
    for row, table in enumerate(own):
        tables[row, table.first : table.end] = table.block_ids
    return tables
