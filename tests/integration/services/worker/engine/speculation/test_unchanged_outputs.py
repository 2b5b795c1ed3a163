"""Speculation changes no output: with any draft, right or wrong, at any temperature, whatever else is asked.

The coupled verifier on a random float32 model: tokens and log probabilities are those of the engine without drafts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import Cancel, Submit
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit
from tests.fakes.scripted_draft import ScriptedDraft

SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "logprobs": 2},
    {"temperature": 0.7, "top_p": 0.9, "n": 3},
    {"temperature": 1.5, "top_k": 20, "min_p": 0.01},
    {"temperature": 0.0, "repetition_penalty": 1.3, "logprobs": 0},
    {"temperature": 0.9, "frequency_penalty": 0.5, "presence_penalty": 0.2, "min_tokens": 12},
    {"temperature": 1.0, "logit_bias": ((5, 3.0), (7, -100.0))},
]
PATTERNS = [[True], [False], [True, True, True, False], [True, False]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def load(checkpoint: Path, **changes: Any) -> Engine:
    return Engine.load(EngineConfig(**{"model": checkpoint, "num_kv_blocks": 512, **changes}))


def submissions(num_requests: int = 14) -> Iterator[Submit]:
    generator = torch.Generator().manual_seed(3)
    for index in range(num_requests):
        length = int(torch.randint(1, 60, (1,), generator=generator))
        prompt = torch.randint(0, 300, (length,), generator=generator).tolist()
        sampling = dict(SAMPLINGS[index % len(SAMPLINGS)])
        eos = (11, 12, 13) if index % 3 == 0 else ()
        yield make_submit(f"request {index}", prompt, seed=index * 7919, max_tokens=24, eos_token_ids=eos, **sampling)


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> Told:
    return drive(load(checkpoint), *submissions())


def speculating(checkpoint: Path, draft: ScriptedDraft, **changes: Any) -> Engine:
    """With as many drafts as there is room for."""
    engine = load(checkpoint, speculation="prompt-lookup", fixed_draft_tokens=True, max_draft_tokens=5, **changes)
    engine._speculation._methods["prompt-lookup"] = draft
    return engine


def logprobs(told: Told) -> dict[tuple[str, int], list[Any]]:
    found: dict[tuple[str, int], list[Any]] = {}
    for event in told.events:
        found.setdefault((event.request_id, event.choice), []).extend(event.logprobs or [])
    return found


@pytest.mark.parametrize("rights", PATTERNS, ids=str)
def test_tokens_ends_and_log_probabilities_are_those_without_drafts(
    checkpoint: Path, expected: Told, rights: list[bool]
) -> None:
    draft = ScriptedDraft(expected.tokens, rights)
    told = drive(speculating(checkpoint, draft), *submissions())
    assert told.tokens == expected.tokens
    assert told.finish_reasons == expected.finish_reasons
    assert all(positions == list(range(len(positions))) for positions in told.positions.values())
    for key, entries in logprobs(expected).items():
        found = logprobs(told)[key]
        assert [one.logprob for one in found] == pytest.approx([one.logprob for one in entries], abs=1e-5)
        assert [one.top_token_ids for one in found] == [one.top_token_ids for one in entries]
    drafted = sum(statistics.num_drafted for statistics in told.statistics)
    accepted = sum(statistics.num_accepted for statistics in told.statistics)
    assert drafted > 100
    assert (accepted == drafted) == (rights == [True])
    assert (accepted == 0) == (rights == [False])


def test_a_right_draft_of_five_brings_six_tokens_in_a_step(checkpoint: Path, expected: Told) -> None:
    (submission,) = [s for s in submissions() if s.request_id == "request 1"]
    told = drive(speculating(checkpoint, ScriptedDraft(expected.tokens, [True])), submission)
    assert [len(event.token_ids) for event in told.events] == [1, 6, 6, 6, 5]
    assert [event.num_accepted for event in told.events] == [0, 5, 5, 5, 4]
    assert told.timings["request 1"].num_accepted == 19


def test_with_preemptions_and_little_room(checkpoint: Path, expected: Told) -> None:
    draft = ScriptedDraft(expected.tokens, [True, True, False])
    told = drive(speculating(checkpoint, draft, num_kv_blocks=12), *submissions(), max_steps=5000)
    assert told.tokens == expected.tokens
    assert told.statistics[-1].num_preemptions_total > 0
    assert sum(statistics.num_accepted for statistics in told.statistics) > 10


def test_with_a_prefix_that_drafts_were_part_of(checkpoint: Path, expected: Told) -> None:
    """Rejected tokens leave nothing behind that another request could find."""
    engine = speculating(checkpoint, ScriptedDraft(expected.tokens, [True, False, False]))
    drive(engine, *submissions())
    for submission in submissions():
        start = submission.choices[0]
        answer = expected.tokens[submission.request_id, 0]
        longer = make_submit("again", [*start.prompt_token_ids, *answer], max_tokens=8)
        engine._speculation._methods["prompt-lookup"] = ScriptedDraft({("again", 0): []}, [True])
        assert drive(engine, longer).tokens == drive(load(checkpoint), longer).tokens


def test_after_a_failover_in_mid_draft(checkpoint: Path, expected: Told) -> None:
    """Resumed with the tokens told so far, on an engine that drafts otherwise: the same stream."""
    engine = speculating(checkpoint, ScriptedDraft(expected.tokens, [True, True, True, False]))
    told = Told()
    (submission,) = [s for s in submissions() if s.request_id == "request 3"]
    engine.submit(submission)
    while len(told.tokens.get(("request 3", 0), [])) < 9:
        told.step(engine)
    known = told.tokens["request 3", 0]
    other = speculating(checkpoint, ScriptedDraft(expected.tokens, [False, True]))
    sampling = SAMPLINGS[3]
    start = submission.choices[0]
    resumed = make_submit(
        "request 3",
        start.prompt_token_ids,
        outputs=known,
        seed=start.seed,
        max_tokens=24,
        eos_token_ids=(11, 12, 13),
        **sampling,
    )
    assert known + drive(other, resumed).tokens["request 3", 0] == expected.tokens["request 3", 0]


def test_cancelled_while_its_draft_is_judged(checkpoint: Path, expected: Told) -> None:
    draft = ScriptedDraft(expected.tokens, [True, False])
    engine = speculating(checkpoint, draft)
    told = Told()
    for submission in submissions():
        engine.submit(submission)
    for _ in range(4):
        told.step(engine)
    for index in range(0, 14, 2):
        engine.cancel(Cancel(request_id=f"request {index}"))
        engine.check_integrity()
    while engine.has_work:
        told.step(engine)
    for key, tokens in expected.tokens.items():
        if int(key[0].split()[1]) % 2:
            assert told.tokens[key] == tokens
    assert len(draft.forgotten) >= len(expected.tokens)
