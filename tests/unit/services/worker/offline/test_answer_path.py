"""Results of steps on their way to text, on a clock that moves when it is looked at."""

import itertools

import pytest

from services.worker.engine.events import StepResult, StepStatistics, TokensSampled
from services.worker.offline.answer_path import DETOKENIZED, READ, WRITTEN, send_and_read
from shared.tokenization.incremental_detokenizer import IncrementalDetokenizer
from shared.tokenization.tokenizer import Tokenizer
from tests.builders import write_tokenizer

STATISTICS = StepStatistics(
    step=1, duration_seconds=0.1, num_running=2, num_waiting=0, num_prefill_tokens=0, num_decode_tokens=2,
    blocks_total=9, blocks_used=2, blocks_cached=0, num_preemptions_total=0, outstanding_tokens=4,
)  # fmt: skip
TEXTS = {"a": "the water goes to the turbine", "b": "über die Schleuse"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("model")
    write_tokenizer(directory)
    return Tokenizer.from_directory(directory)


def steps(tokenizer: Tokenizer) -> list[StepResult]:
    """One token of each text a step, until it ends."""
    tokens = {name: tokenizer.encode(text) for name, text in TEXTS.items()}
    return [
        StepResult(
            tokens=[
                TokensSampled(request_id=name, choice=0, position=place, token_ids=[own[place]])
                for name, own in tokens.items()
                if place < len(own)
            ],
            timings=[],
            rejected=[],
            statistics=STATISTICS,
        )
        for place in range(max(map(len, tokens.values())))
    ]


def test_every_token_arrives_and_becomes_text(tokenizer: Tokenizer) -> None:
    assert send_and_read(steps(tokenizer), lambda: IncrementalDetokenizer(tokenizer)).texts == TEXTS


def test_every_result_counts_for_every_part(tokenizer: Tokenizer) -> None:
    ticks = itertools.count()
    results = steps(tokenizer)
    path = send_and_read(results, lambda: IncrementalDetokenizer(tokenizer), clock=lambda: float(next(ticks)))
    assert path.seconds == dict.fromkeys((WRITTEN, READ, DETOKENIZED), float(len(results)))


def test_without_a_tokenizer_tokens_stay_tokens(tokenizer: Tokenizer) -> None:
    path = send_and_read(steps(tokenizer), None)
    assert set(path.seconds) == {WRITTEN, READ}
    assert path.texts == {}


def test_a_result_of_many_requests_is_read_whole(tokenizer: Tokenizer) -> None:
    events = [
        TokensSampled(request_id=f"request {number} of a name that is long", choice=0, position=0, token_ids=[7])
        for number in range(1500)
    ]
    result = StepResult(tokens=events, timings=[], rejected=[], statistics=STATISTICS)
    assert len(send_and_read([result], lambda: IncrementalDetokenizer(tokenizer)).texts) == 1500
