"""What a model says when nobody asks it anything: the text that a draft of its own weights is fitted to.

It is the text that drafts are judged on later, the model's own; no tokenizer and no file is needed, and the same model
says the same again. A chat model that begins where its template begins writes both sides of a conversation.

Source: Xu et al. 2024, "Magpie" (an aligned model prompted with nothing); Liu et al. 2023, "LLM-QAT", 2.1.
"""

from __future__ import annotations

from typing import Protocol

from services.worker.engine.batch import SampledToken, ScheduledBatch, ScheduledSequence
from services.worker.engine.sequence import BlockTable, RequestProgress, Sequence
from shared.contracts.sampling import SamplingParameters

_TEMPERATURE = 0.8
"""Between greedy text, which repeats itself, and what a small model drifts off into."""


class RunsBatches(Protocol):
    def run(self, batch: ScheduledBatch) -> list[SampledToken]: ...


def write_own_text(
    runner: RunsBatches,
    *,
    first_token_id: int,
    num_sequences: int,
    at_once: int,
    length: int,
    block_size_tokens: int,
    num_groups: int,
    num_blocks: int,
) -> list[list[int]]:
    """`num_sequences` of `length` tokens each, `at_once` of them at a time or as many as the cache holds, whose first
    blocks are written over. None at all where it does not hold one.
    """
    blocks_each = -(-length // block_size_tokens)
    at_once = min(at_once, num_blocks // (blocks_each * num_groups))
    written: list[list[int]] = []
    while at_once and len(written) < num_sequences:
        numbers = range(len(written), min(len(written) + at_once, num_sequences))
        sequences = [
            _sequence(number, place, first_token_id, blocks_each, num_groups, length)
            for place, number in enumerate(numbers)
        ]
        for position in range(length - 1):
            items = [
                ScheduledSequence(sequence=one, start=position, num_tokens=1, samplers=(one,), is_decode=True)
                for one in sequences
            ]
            for token in runner.run(ScheduledBatch(items=items)):
                token.sequence.token_ids.append(token.token_id)
        written += [one.token_ids for one in sequences]
    return written


def _sequence(number: int, place: int, first_token_id: int, blocks_each: int, num_groups: int, length: int) -> Sequence:
    """`number` is its seed, `place` that of its blocks."""
    request = RequestProgress(
        request_id=f"own text {number}",
        sampling=SamplingParameters(temperature=_TEMPERATURE, seed=number, ignore_eos=True),
        order=(0, 0, 0, 0),
        cache_salt="",
        ending_token_ids=frozenset(),
        submitted_ns=0,
    )
    first = place * blocks_each * num_groups
    return Sequence(
        request=request,
        choice=0,
        seed=number,
        token_ids=[first_token_id],
        num_prompt_tokens=1,
        max_output_tokens=length,
        block_tables=[
            BlockTable(block_ids=list(range(first + group * blocks_each, first + (group + 1) * blocks_each)))
            for group in range(num_groups)
        ],
    )
