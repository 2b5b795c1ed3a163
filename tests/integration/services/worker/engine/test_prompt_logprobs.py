"""A prompt's own log-probabilities are transformers', however the prompt is scheduled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import LogprobEntry, Submit
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit

PROMPT = [(7 * index) % 390 + 5 for index in range(150)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> torch.Tensor:
    """[P - 1, V] of the whole prompt at once."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT])).logits[0, :-1]
    return logits.log_softmax(dim=1)


def scored(request_id: str, prompt: list[int] = PROMPT, **options: Any) -> Submit:
    submit = make_submit(request_id, prompt, **{"logprobs": 3, "max_tokens": 3, **options})
    return replace(submit, prompt_logprobs=True)


def load(checkpoint: Path, **options: Any) -> Engine:
    return Engine.load(EngineConfig(**{"model": checkpoint, "num_kv_blocks": 128, **options}))


def entries(told: Told, request_id: str, choice: int = 0) -> list[LogprobEntry]:
    """Of the first event; no later one may have any."""
    first, *others = [event for event in told.events if (event.request_id, event.choice) == (request_id, choice)]
    assert first.prompt_logprobs is not None
    assert all(event.prompt_logprobs is None for event in others)
    return first.prompt_logprobs


def assert_close(found: list[LogprobEntry], expected: torch.Tensor) -> None:
    assert len(found) == len(PROMPT) - 1
    own = expected[torch.arange(len(PROMPT) - 1), torch.tensor(PROMPT[1:])]
    assert torch.tensor([entry.logprob for entry in found]) == pytest.approx(own, abs=1e-4)
    best = expected.topk(3)
    assert torch.tensor([entry.top_logprobs for entry in found]) == pytest.approx(best.values, abs=1e-4)
    assert [entry.top_token_ids for entry in found] == best.indices.tolist()


@pytest.mark.parametrize("max_tokens_per_step", [512, 64, 70])
def test_they_are_those_of_the_whole_prompt_at_once(
    checkpoint: Path, expected: torch.Tensor, max_tokens_per_step: int
) -> None:
    engine = load(checkpoint, max_tokens_per_step=max_tokens_per_step)
    assert_close(entries(drive(engine, scored("a")), "a"), expected)


def test_a_known_prefix_is_computed_again(checkpoint: Path, expected: torch.Tensor) -> None:
    engine = load(checkpoint)
    drive(engine, make_submit("before", PROMPT))
    told = drive(engine, scored("a"))
    assert told.timings["a"].cached_prompt_tokens == 0
    assert_close(entries(told, "a"), expected)


def test_every_choice_has_them_and_the_prompt_is_computed_once(checkpoint: Path, expected: torch.Tensor) -> None:
    told = drive(load(checkpoint), scored("a", n=3, temperature=1.0))
    for choice in range(3):
        assert_close(entries(told, "a", choice), expected)
    assert sum(one.num_prefill_tokens for one in told.statistics) == len(PROMPT)


def test_a_resumed_choice_has_them_again(checkpoint: Path, expected: torch.Tensor) -> None:
    engine = load(checkpoint)
    whole = drive(engine, scored("a", max_tokens=6))
    rest = drive(engine, scored("b", max_tokens=6, outputs=whole.tokens["a", 0][:2]))
    assert rest.tokens["b", 0] == whole.tokens["a", 0][2:]
    assert_close(entries(rest, "b"), expected)


def test_preempted_prompts_are_scored_all_the_same(checkpoint: Path, expected: torch.Tensor) -> None:
    engine = load(checkpoint, num_kv_blocks=24, enable_prefix_cache=False, max_tokens_per_step=96)
    told = drive(engine, *(scored(f"r{index}", max_tokens=60) for index in range(3)))
    assert told.statistics[-1].num_preemptions_total > 0
    for index in range(3):
        assert_close(entries(told, f"r{index}"), expected)


def test_a_prompt_of_one_token_has_none(checkpoint: Path) -> None:
    assert entries(drive(load(checkpoint), scored("a", [9])), "a") == []


@pytest.mark.parametrize("max_tokens_per_step", [512, 64])
def test_a_prompt_is_scored_without_generating_a_token(
    checkpoint: Path, expected: torch.Tensor, max_tokens_per_step: int
) -> None:
    """Every token may end it: what is drawn at the prompt's end is nobody's, not even its end."""
    engine = load(checkpoint, max_tokens_per_step=max_tokens_per_step)
    submit = replace(scored("a", n=2, max_tokens=0), eos_token_ids=list(range(400)))
    told = drive(engine, submit, scored("neighbour"))
    for choice in range(2):
        assert_close(entries(told, "a", choice), expected)
        assert told.tokens["a", choice] == []
        assert told.finish_reasons["a", choice] == "length"
    assert len(told.tokens["neighbour", 0]) == 3
    engine.check_integrity()


def test_a_prompt_as_long_as_the_context_is_scored(checkpoint: Path) -> None:
    engine = load(checkpoint, max_model_tokens=150)
    told = drive(engine, scored("a", max_tokens=0), scored("no room", max_tokens=1))
    assert len(entries(told, "a")) == len(PROMPT) - 1
    assert told.rejected["no room"].code == "context_length_exceeded"


@pytest.mark.parametrize("prompt", [[9], PROMPT])
def test_no_token_and_nothing_to_score_is_over_at_once(checkpoint: Path, prompt: list[int]) -> None:
    told = drive(load(checkpoint), make_submit("a", prompt, max_tokens=0), scored("b", [9], max_tokens=0))
    assert told.tokens == {("a", 0): [], ("b", 0): []}
    assert told.finish_reasons == {("a", 0): "length", ("b", 0): "length"}
    assert entries(told, "b") == []
    assert sum(one.num_prefill_tokens for one in told.statistics) == 0


def test_alternatives_are_told_only_when_asked_for(checkpoint: Path) -> None:
    found = entries(drive(load(checkpoint), scored("a", logprobs=0)), "a")
    assert all(entry.top_token_ids == [] for entry in found)


def test_who_did_not_ask_gets_none(checkpoint: Path) -> None:
    told = drive(load(checkpoint), make_submit("a", PROMPT, logprobs=1), scored("b"))
    assert all(event.prompt_logprobs is None for event in told.events if event.request_id == "a")
