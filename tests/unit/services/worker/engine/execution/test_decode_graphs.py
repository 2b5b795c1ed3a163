"""Recorded decode steps: the right bucket, the same memory every time, the answer of a step that was not recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.gather_attention import GatherAttention
from services.worker.engine.attention.sdpa_attention import SdpaAttention
from services.worker.engine.batch import SampledToken, ScheduledBatch, ScheduledSequence
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.execution.cache_memory import cache_shape
from services.worker.engine.execution.decode_graphs import bucket_sizes
from services.worker.engine.execution.model_runner import ModelRunner
from services.worker.engine.kv_cache.layer_groups import group_layers
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.models.decoder_operators import TorchOperators
from services.worker.engine.sequence import BlockTable, Sequence
from tests.engine_driver import make_sequence
from tests.fakes.graph_capture import ReplayedOperators
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

BLOCK_SIZE, NUM_BLOCKS, MAX_TOKENS = 4, 40, 32
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(path)
    return path


def make_runner(checkpoint: Path, attention: AttentionBackend | None = None) -> ModelRunner:
    source = open_checkpoint(checkpoint)
    decoder = Decoder(
        source.config,
        lambda name: source.tensor(name, torch.float32),
        attention=attention or SdpaAttention(),
        operators=TorchOperators(),
    )
    decoder.prepare_positions(MAX_TOKENS)
    groups = group_layers([None] * source.config.num_layers, max_model_tokens=MAX_TOKENS)
    shape = cache_shape(source.config, groups, block_size_tokens=BLOCK_SIZE, dtype=torch.float32)
    return ModelRunner(decoder, num_blocks=NUM_BLOCKS, groups=groups, cache_shape=shape, device=CPU)


def recorded(checkpoint: Path, attention: AttentionBackend | None = None) -> tuple[ModelRunner, ReplayedOperators]:
    runner, capture = make_runner(checkpoint, attention), ReplayedOperators()
    runner.record_decode_graphs(capture, max_rows=6, max_tokens=MAX_TOKENS)
    return runner, capture


def sequences(*lengths: int) -> list[Sequence]:
    """Random tokens; sequence i owns blocks 8i to 8i + 7, in an order of its own."""
    made = []
    for index, length in enumerate(lengths):
        draw = torch.Generator().manual_seed(100 * index + length)
        sequence = make_sequence(torch.randint(0, 64, (length,), generator=draw).tolist(), logprobs=3, temperature=0.0)
        blocks = (8 * index + torch.randperm(8, generator=draw)).tolist()
        sequence.block_tables = [BlockTable(block_ids=blocks[: -(-length // BLOCK_SIZE)])]
        made.append(sequence)
    return made


def step(runner: ModelRunner, batch: list[Sequence], *, from_start: bool = False) -> list[SampledToken]:
    items = [
        ScheduledSequence(
            sequence=sequence,
            start=0 if from_start else len(sequence.token_ids) - 1,
            num_tokens=len(sequence.token_ids) if from_start else 1,
            samplers=(sequence,),
            is_decode=not from_start,
        )
        for sequence in batch
    ]
    return runner.run(ScheduledBatch(items=items))


def decoded(runner: ModelRunner, *lengths: int) -> list[tuple[int, list[int], list[float]]]:
    """Everything told about each token of a decode step behind a prefill of the same sequences."""
    batch = sequences(*lengths)
    step(runner, batch, from_start=True)
    return [(token.token_id, token.top_token_ids, token.top_logprobs) for token in step(runner, batch)]


def assert_same(
    found: list[tuple[int, list[int], list[float]]], expected: list[tuple[int, list[int], list[float]]]
) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], abs=1e-5)


@pytest.mark.parametrize(
    ("max_rows", "expected"),
    [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20])],
)
def test_sizes_end_at_the_most_rows(max_rows: int, expected: list[int]) -> None:
    assert bucket_sizes(max_rows) == expected


def test_no_more_than_seven_rows_are_computed_for_nobody() -> None:
    sizes = bucket_sizes(256)
    assert all(min(size for size in sizes if size >= rows) - rows <= 7 for rows in range(1, 257))


@pytest.mark.parametrize("lengths", [(5,), (5, 17), (5, 17, 9), (2, 31, 4, 8, 9), (3, 3, 3, 3, 3)])
def test_a_replay_answers_like_a_step_that_was_not_recorded(checkpoint: Path, lengths: tuple[int, ...]) -> None:
    runner, capture = recorded(checkpoint)
    assert_same(decoded(runner, *lengths), decoded(make_runner(checkpoint), *lengths))
    assert capture.num_replays == 1


def test_every_size_is_recorded_once_and_serves_all_lengths(checkpoint: Path) -> None:
    runner, capture = recorded(checkpoint)
    plain = make_runner(checkpoint)
    for lengths in [(3,), (30,), (7,), (8, 9), (30, 2), (4, 5, 6, 7), (3,)]:
        assert_same(decoded(runner, *lengths), decoded(plain, *lengths))
    assert capture.num_recordings == len(bucket_sizes(6))
    assert capture.num_replays == 7


def test_a_backend_that_reads_lengths_on_the_host_is_found_out(checkpoint: Path) -> None:
    """The capture can convict: gather attention remembers the lengths of the recording."""
    runner, _ = recorded(checkpoint, GatherAttention())
    found = decoded(runner, 25, 3)
    expected = decoded(make_runner(checkpoint), 25, 3)
    assert found[0][2] != pytest.approx(expected[0][2], abs=1e-3)


def test_only_backends_that_read_lengths_on_the_device_are_recorded(checkpoint: Path) -> None:
    assert not make_runner(checkpoint, GatherAttention())._decoder.is_capturable


def test_prompts_and_steps_that_are_too_large_are_computed_as_ever(checkpoint: Path) -> None:
    runner, capture = recorded(checkpoint)
    runner.record_decode_graphs(capture, max_rows=2, max_tokens=MAX_TOKENS)
    assert_same(decoded(runner, 5, 6, 7), decoded(make_runner(checkpoint), 5, 6, 7))
    assert capture.num_replays == 0


def test_padding_writes_only_to_the_spare_block(checkpoint: Path) -> None:
    runner, _ = recorded(checkpoint)
    batch = sequences(5, 17, 9, 4, 6)
    step(runner, batch, from_start=True)
    before = runner._cache._stacks[0].clone()
    step(runner, batch)
    changed = (
        (runner._cache._stacks[0] != before).flatten(4).any(-1).any(0).any(0).nonzero()
    )  # [changes, (block, position)]
    expected = {
        (sequence.block_tables[0].block_ids[-1], (len(sequence.token_ids) - 1) % BLOCK_SIZE) for sequence in batch
    }
    assert {(block, position) for block, position in changed.tolist() if block < NUM_BLOCKS} <= expected


def test_several_samplers_of_one_row_get_its_logits_each(checkpoint: Path) -> None:
    """A prompt of one token with followers is a step of single tokens, too."""
    runner, capture = recorded(checkpoint)
    leader, follower = sequences(1, 1)
    other = sequences(1, 1, 4)[2]
    items = [
        ScheduledSequence(sequence=leader, start=0, num_tokens=1, samplers=(leader, follower), is_decode=False),
        ScheduledSequence(sequence=other, start=3, num_tokens=1, samplers=(), is_decode=True),
    ]
    tokens = runner.run(ScheduledBatch(items=items))
    assert capture.num_replays == 1
    assert [token.sequence for token in tokens] == [leader, follower]
    assert tokens[0].token_id == tokens[1].token_id
    expected = make_runner(checkpoint).run(ScheduledBatch(items=items))
    assert [token.token_id for token in tokens] == [token.token_id for token in expected]
