"""Masks make tokens impossible in their own row and nowhere else."""

import math
from collections.abc import Iterable

import torch

from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.penalties import apply_penalties
from services.worker.engine.sampling.sampler import sample
from services.worker.engine.sampling.token_masks import apply_masks
from tests.engine_driver import make_sequence


class Only:
    """Allows a fixed set of tokens."""

    field = "response_format"
    is_finished = False

    def __init__(self, *token_ids: int, num_bytes: int = 8, problem: str | None = None) -> None:
        self.problem = problem
        self._mask = bytearray(num_bytes)
        for token_id in token_ids:
            self._mask[token_id // 8] |= 1 << (token_id % 8)

    def count_allowed(self, token_ids: Iterable[int]) -> int:
        raise NotImplementedError

    def begin_mask(self, draft: Iterable[int] = ()) -> None: ...

    def mask(self, index: int = 0) -> bytes | None:
        return None if self.problem is not None else bytes(self._mask)

    def advance(self, token_ids: list[int]) -> None: ...


def held_to(*token_ids: int, **options: object) -> Draw:
    sequence = make_sequence([1], **options)  # type: ignore[arg-type]
    sequence.constraint = Only(*token_ids)
    return Draw(sequence)


def finite(logits: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in logits]


def test_rows_without_a_constraint_stay_as_they_are() -> None:
    logits = torch.randn(3, 50)
    before = logits.clone()
    apply_masks(logits, [Draw(make_sequence([1])), held_to(7, 8, 49), Draw(make_sequence([1]))])
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    assert finite(logits[1:2]) == [[7, 8, 49]]
    assert torch.equal(logits[1, [7, 8, 49]], before[1, [7, 8, 49]])


def test_all_rows_at_once() -> None:
    logits = torch.randn(2, 50)
    apply_masks(logits, [held_to(1), held_to(2, 3)])
    assert finite(logits) == [[1], [2, 3]]


def test_a_mask_longer_than_the_vocabulary_is_cut() -> None:
    logits = torch.randn(1, 13)
    apply_masks(logits, [held_to(12, 13, 63)])
    assert finite(logits) == [[12]]


def test_a_constraint_with_a_problem_masks_nothing() -> None:
    logits = torch.randn(1, 20)
    before = logits.clone()
    sequence = make_sequence([1])
    sequence.constraint = Only(3, problem="too complex")
    apply_masks(logits, [Draw(sequence)])
    assert torch.equal(logits, before)


def test_nothing_but_allowed_tokens_is_drawn_whatever_else_is_asked() -> None:
    draws = [
        held_to(3, 40, seed=seed, temperature=temperature, logit_bias=((5, 100.0),), logprobs=1)
        for seed, temperature in enumerate([0.0, 0.5, 1.0, 2.0] * 20)
    ]
    tokens = sample(torch.randn(1, 50).repeat(80, 1), draws).read()
    assert {token.token_id for token in tokens} <= {3, 40}
    assert all(token.logprob is not None and math.isfinite(token.logprob) for token in tokens)


def test_log_probabilities_are_the_models_not_the_grammars() -> None:
    logits = torch.randn(1, 50)
    expected = logits.log_softmax(dim=1)[0, 3]
    (token,) = sample(logits.clone(), [held_to(3, logprobs=0)]).read()
    assert token.logprob == float(expected)


def test_the_minimum_length_gives_way_where_only_the_end_is_allowed() -> None:
    ending = frozenset({9})
    only_end = held_to(9, min_tokens=5, ending_token_ids=ending)
    may_go_on = held_to(9, 10, min_tokens=5, ending_token_ids=ending)
    logits = torch.zeros(2, 50)
    apply_masks(logits, [only_end, may_go_on])
    apply_penalties(logits, [only_end, may_go_on])
    assert finite(logits) == [[9], [10]]
