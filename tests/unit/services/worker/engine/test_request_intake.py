"""The engine's door: what becomes sequences and how."""

from dataclasses import replace
from typing import Any

import pytest

from services.worker.engine.events import RequestRejected, Submit
from services.worker.engine.request_intake import check_submission, open_request
from tests.engine_driver import make_submit


def check(submit: Submit, **changes: Any) -> RequestRejected | None:
    known: dict[str, Any] = {
        "vocabulary_size": 10,
        "max_model_tokens": 20,
        "is_known": False,
        "num_places": 8,
        "speculation_methods": ["none", "prompt-lookup"],
        **changes,
    }
    return check_submission(submit, **known)


def test_what_fits_exactly_is_accepted() -> None:
    assert check(make_submit("a", [9] * 10, max_tokens=10)) is None
    assert check(make_submit("a", [0] * 19, max_tokens=None)) is None


@pytest.mark.parametrize(
    ("submit", "changes", "param"),
    [
        (make_submit("a", [1] * 11, max_tokens=10), {}, "messages"),
        (make_submit("a", [1] * 20, max_tokens=None), {}, "messages"),
        (make_submit("a", [1] * 10, outputs=[1] * 11, max_tokens=1), {}, "messages"),
        (make_submit("a", [10]), {}, "prompt"),
        (make_submit("a", [1], outputs=[10]), {}, "prompt"),
        (make_submit("a", [1]), {"is_known": True}, "request_id"),
        (make_submit("a", [1], n=9), {}, None),
        (make_submit("a", [1], stop_token_ids=(-1,)), {}, "stop_token_ids"),
        (make_submit("a", [1], logit_bias=((99, 1.0),)), {}, "logit_bias"),
        (replace(make_submit("a", [1]), speculation="tea-leaves"), {}, "speculation"),
        (replace(make_submit("a", [1]), predicted_token_ids=[10]), {}, "prediction"),
    ],
)
def test_what_cannot_run_is_named(submit: Submit, changes: dict[str, Any], param: str | None) -> None:
    rejection = check(submit, **changes)
    assert rejection is not None
    assert rejection.param == param


def test_two_choices_of_one_index_are_refused() -> None:
    submit = make_submit("a", [1])
    twice = Submit(request_id="a", choices=submit.choices * 2, sampling=submit.sampling, eos_token_ids=[])
    rejection = check(twice)
    assert rejection is not None
    assert rejection.param == "n"


def test_a_resumed_choice_continues_where_it_was() -> None:
    submit = make_submit("a", [1, 2], n=2, seed=5, outputs=[3], max_tokens=4, eos_token_ids=(0, 99))
    request = open_request(submit, vocabulary_size=10, max_model_tokens=20, submitted_ns=1)
    sequence = request.sequences[1]
    assert (sequence.token_ids, sequence.num_prompt_tokens, sequence.seed) == ([1, 2, 3], 2, 6)
    assert sequence.num_outstanding_tokens == 6
    assert request.ending_token_ids == {0}, "an end token without a logit cannot be masked"


def test_without_max_tokens_the_context_is_the_limit() -> None:
    submit = make_submit("a", [1, 2], max_tokens=None)
    request = open_request(submit, vocabulary_size=10, max_model_tokens=20, submitted_ns=1)
    assert request.sequences[0].max_output_tokens == 18
