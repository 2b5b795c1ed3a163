"""A batch becomes tensors: single tokens first, every token at its place in the cache."""

import torch

from services.worker.engine.batch import ScheduledBatch, ScheduledSequence
from services.worker.engine.execution.step_inputs import prepare_inputs
from tests.engine_driver import make_sequence


def test_single_tokens_come_first_and_samplers_point_at_last_tokens() -> None:
    chunk = make_sequence([10, 11, 12, 13, 14, 15])
    chunk.block_ids = [7, 2]
    single, follower = make_sequence([20, 21, 22, 23, 24]), make_sequence([20])
    single.block_ids = [3, 5]
    batch = ScheduledBatch(
        items=[
            ScheduledSequence(sequence=chunk, start=2, num_tokens=3, samplers=(), is_decode=False),
            ScheduledSequence(sequence=single, start=4, num_tokens=1, samplers=(single, follower), is_decode=True),
        ]
    )
    inputs = prepare_inputs(batch, block_size_tokens=4, device=torch.device("cpu"))
    layout = inputs.layout
    assert inputs.token_ids.tolist() == [24, 12, 13, 14]
    assert layout.positions.tolist() == [4, 2, 3, 4]
    assert layout.slots.tolist() == [5 * 4, 7 * 4 + 2, 7 * 4 + 3, 2 * 4]
    assert layout.block_tables.tolist() == [[3, 5], [7, 2]]
    assert layout.context_lengths.tolist() == layout.context_length_list == [5, 5]
    assert layout.query_starts.tolist() == layout.query_start_list == [0, 1, 4]
    assert layout.num_single == 1
    assert inputs.sampled_rows == [0, 0]
    assert inputs.samplers == [single, follower]
