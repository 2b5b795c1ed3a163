"""A batch becomes tensors: single tokens first, every token at its place in the cache of each group of layers."""

import torch

from services.worker.engine.batch import Draft, ScheduledBatch, ScheduledSequence
from services.worker.engine.execution.step_inputs import prepare_inputs
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sequence import BlockTable
from tests.engine_driver import make_sequence


def test_single_tokens_come_first_and_samplers_point_at_last_tokens() -> None:
    chunk = make_sequence([10, 11, 12, 13, 14, 15])
    chunk.block_tables = [BlockTable(block_ids=[7, 2]), BlockTable(block_ids=[1, 4])]
    single, follower = make_sequence([20, 21, 22, 23, 24]), make_sequence([20])
    single.block_tables = [BlockTable(block_ids=[3, 5]), BlockTable(first=1, block_ids=[6])]
    batch = ScheduledBatch(
        items=[
            ScheduledSequence(sequence=chunk, start=2, num_tokens=3, samplers=(), is_decode=False),
            ScheduledSequence(sequence=single, start=4, num_tokens=1, samplers=(single, follower), is_decode=True),
        ]
    )
    inputs = prepare_inputs(batch, block_size_tokens=4)
    tensors = inputs.to(torch.device("cpu"))
    layout, sliding = tensors.layouts
    assert tensors.token_ids.tolist() == [24, 12, 13, 14]
    assert layout.positions.tolist() == [4, 2, 3, 4]
    assert layout.slots.tolist() == [5 * 4, 7 * 4 + 2, 7 * 4 + 3, 2 * 4]
    assert layout.block_tables.tolist() == [[3, 5], [7, 2]]
    assert layout.context_lengths.tolist() == layout.context_length_list == [5, 5]
    assert layout.query_starts.tolist() == layout.query_start_list == [0, 1, 4]
    assert layout.num_single == 1
    assert sliding.slots.tolist() == [6 * 4, 1 * 4 + 2, 1 * 4 + 3, 4 * 4]
    assert sliding.block_tables.tolist() == [[0, 6], [1, 4]], "the block that was given back has no place"
    assert sliding.context_lengths is layout.context_lengths
    assert inputs.sampled_rows == [0, 0]
    assert [draw.sequence for draw in inputs.draws] == [single, follower]


def test_a_draft_is_rows_of_single_tokens_with_a_context_and_a_draw_each() -> None:
    single, drafted = make_sequence([20, 21]), make_sequence([30, 31, 32, 33])
    single.block_tables = [BlockTable(block_ids=[1])]
    drafted.block_tables = [BlockTable(block_ids=[3, 5])]
    chunk = make_sequence([10, 11, 12])
    chunk.block_tables = [BlockTable(block_ids=[7])]
    draft = Draft(token_ids=(34, 35))
    batch = ScheduledBatch(
        items=[
            ScheduledSequence(sequence=chunk, start=0, num_tokens=2, samplers=(), is_decode=False),
            ScheduledSequence(
                sequence=drafted, start=3, num_tokens=1, samplers=(drafted,), is_decode=True, draft_room=3, draft=draft
            ),
            ScheduledSequence(sequence=single, start=1, num_tokens=1, samplers=(single,), is_decode=True),
        ]
    )
    inputs = prepare_inputs(batch, block_size_tokens=4)
    (layout,) = inputs.to(torch.device("cpu")).layouts
    assert inputs.arrays.token_ids.tolist() == [33, 34, 35, 21, 10, 11]
    assert layout.positions.tolist() == [3, 4, 5, 1, 0, 1]
    assert layout.slots.tolist() == [15, 20, 21, 5, 28, 29]
    assert layout.context_length_list == [4, 5, 6, 2, 2]
    assert layout.query_start_list == [0, 1, 2, 3, 4, 6]
    assert layout.block_tables.tolist() == [[3, 5], [3, 5], [3, 5], [1, 0], [7, 0]]
    assert (layout.num_single, layout.run_starts) == (4, [0, 3, 4])
    assert inputs.sampled_rows == [0, 1, 2, 3]
    assert inputs.draws == [Draw(drafted), Draw(drafted, (34,)), Draw(drafted, (34, 35)), Draw(single)]


def test_a_padded_step_has_shapes_of_its_size_only_and_its_padding_no_context() -> None:
    first, second = make_sequence([1, 2, 3, 4, 5]), make_sequence([6, 7])
    first.block_tables = [BlockTable(block_ids=[3, 5]), BlockTable(first=1, block_ids=[6])]
    second.block_tables = [BlockTable(block_ids=[2]), BlockTable(block_ids=[4])]
    batch = ScheduledBatch(
        items=[
            ScheduledSequence(sequence=first, start=4, num_tokens=1, samplers=(first,), is_decode=True),
            ScheduledSequence(sequence=second, start=1, num_tokens=1, samplers=(second,), is_decode=True),
        ]
    )
    inputs = prepare_inputs(batch, block_size_tokens=4)
    assert inputs.is_all_single
    padded = inputs.arrays.padded(4, num_columns=3, spare_slot=99)
    assert padded.token_ids.tolist() == [5, 7, 0, 0]
    assert padded.positions.tolist() == [4, 1, 0, 0]
    assert padded.context_lengths.tolist() == [5, 2, 0, 0]
    assert padded.query_starts.tolist() == [0, 1, 2, 3, 4]
    assert [slots.tolist() for slots in padded.slots] == [[20, 9, 99, 99], [24, 17, 99, 99]]
    assert padded.block_tables[0].tolist() == [[3, 5, 0], [2, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert padded.block_tables[1].tolist() == [[0, 6, 0], [4, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert [array.dtype for array in padded.flat()] == [array.dtype for array in inputs.arrays.flat()]
