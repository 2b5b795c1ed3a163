"""Two tokens that come through a draft of two are distributed as the target's, for both verifiers: chi-square.

The target and the draft are tables of next-token logits over four tokens. Every limit is the 1 in 10,000 quantile;
seeds are fixed, so nothing flickers, and a changed generator has a false alarm in at most one of 900 changes (eleven
comparisons).
"""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from services.worker.engine.batch import Draft, SampledToken, ScheduledSequence
from services.worker.engine.execution.verdicts import judge_drafts
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.sampler import propose, sample
from services.worker.engine.sequence import Sequence
from tests.engine_driver import make_sequence

NUM_SEQUENCES = 6_000
VOCABULARY = 4
TARGET = torch.tensor([[1.0, 0.0, -1.0, 0.5], [0.0, 0.7, 0.2, -2.0], [-0.5, 0.0, 1.0, 0.0], [2.0, 0.0, 0.3, 0.1]])
DRAFT = torch.tensor([[0.0, 0.8, -0.5, 0.5], [1.0, 0.2, -0.4, -1.0], [0.5, 0.0, 0.0, 0.3], [0.0, 1.0, 0.0, 1.0]])
START = 3
LIMITS = {15: 44.27, 11: 37.37, 8: 31.83, 5: 25.75, 3: 21.11}
"""1 in 10,000 quantiles of chi-square by degrees of freedom."""

REQUESTS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.0, "repetition_penalty": 1.7, "frequency_penalty": 0.4},
    {"temperature": 1.0, "logit_bias": ((0, 1.5), (2, -1.0))},
]


class NeverTwo:
    """A grammar in which token 2 does not occur."""

    field, problem, is_finished = "response_format", None, False

    def count_allowed(self, token_ids: Iterable[int]) -> int:
        return next((place for place, token_id in enumerate(token_ids) if token_id == 2), len(list(token_ids)))

    def begin_mask(self, draft: Iterable[int] = ()) -> None: ...

    def mask(self, index: int = 0) -> bytes:
        return bytes([0b1011])

    def advance(self, token_ids: list[int]) -> None: ...


def logits_behind(table: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    return table[[draw.token_ids[-1] for draw in draws]].clone()


def plain(draws: list[Draw]) -> list[SampledToken]:
    return sample(logits_behind(TARGET, draws), draws).read()


def pairs_through_drafts(sequences: list[Sequence], *, is_coupled: bool) -> tuple[list[tuple[int, int]], float]:
    """The first two tokens of each sequence, and the share of drafted tokens that stood."""
    drafts: list[list[int]] = [[] for _ in sequences]
    of_rows: list[list[torch.Tensor]] = [[] for _ in sequences]
    for _ in range(2):
        draws = [Draw(one, tuple(drafted)) for one, drafted in zip(sequences, drafts, strict=True)]
        tokens, probabilities = propose(logits_behind(DRAFT, draws), draws, shares_noise=is_coupled)
        for index, token_id in enumerate(tokens.tolist()):
            drafts[index].append(token_id)
            if (own := probabilities[index]) is not None:
                of_rows[index].append(own)
    items, draws = [], []
    for sequence, drafted, rows in zip(sequences, drafts, of_rows, strict=True):
        draft = Draft(token_ids=tuple(drafted))
        items.append(
            ScheduledSequence(
                sequence=sequence, start=0, num_tokens=1, samplers=(sequence,), is_decode=True, draft=draft
            )
        )
        for row in range(3):
            is_judged = row < 2 and not is_coupled
            candidate = drafted[row] if is_judged else None
            draws.append(Draw(sequence, draft.token_ids[:row], candidate, rows[row] if is_judged else None))
    outcome = judge_drafts(items, plain(draws))
    for token in outcome.tokens:
        token.sequence.take(token.token_id)
    short = [Draw(sequence) for sequence in sequences if sequence.num_output_tokens < 2]
    for token in plain(short):
        token.sequence.take(token.token_id)
    share = sum(verdict.num_accepted for verdict in outcome.verdicts) / (2 * len(sequences))
    return [(one.output_token_ids[0], one.output_token_ids[1]) for one in sequences], share


def make_sequences(parameters: dict[str, Any]) -> list[Sequence]:
    return [make_sequence([START], seed=seed, **parameters) for seed in range(NUM_SEQUENCES)]


def expected_pairs(parameters: dict[str, Any], constraint: NeverTwo | None = None) -> dict[tuple[int, int], float]:
    """From the definition: the shares among very many plain draws of one token behind another, by probabilities that
    `propose` computes for the target itself."""
    expected: dict[tuple[int, int], float] = {}

    def probabilities(token_ids: list[int]) -> torch.Tensor:
        draw = Draw(make_sequence(token_ids, num_output_tokens=len(token_ids) - 1, **parameters))
        logits = logits_behind(TARGET, [draw])
        if constraint is not None:
            logits[0, 2] = -1e30
        (own,) = propose(logits, [draw], shares_noise=False)[1]
        assert own is not None
        return own

    for first in range(VOCABULARY):
        share = float(probabilities([START])[first])
        for second in range(VOCABULARY):
            both = share * float(probabilities([START, first])[second]) if share else 0.0
            if both > 0:
                expected[first, second] = both * NUM_SEQUENCES
    return expected


def check(pairs: list[tuple[int, int]], expected: dict[tuple[int, int], float]) -> None:
    found = dict.fromkeys(expected, 0)
    for pair in pairs:
        found[pair] += 1  # KeyError: what cannot be
    statistic = sum((found[pair] - count) ** 2 / count for pair, count in expected.items())
    degrees = min(known for known in LIMITS if known >= len(expected) - 1)
    assert statistic < LIMITS[degrees]


@pytest.mark.parametrize("is_coupled", [True, False], ids=["coupled", "rejection"])
@pytest.mark.parametrize("parameters", REQUESTS, ids=str)
def test_pairs_of_tokens_are_distributed_as_the_targets(parameters: dict[str, Any], is_coupled: bool) -> None:
    pairs, share = pairs_through_drafts(make_sequences(parameters), is_coupled=is_coupled)
    check(pairs, expected_pairs(parameters))
    assert 0.05 < share < 0.95, "a draft that always or never stands shows nothing"


def test_under_a_grammar_a_forbidden_candidate_is_rejected_and_favours_nobody() -> None:
    sequences = make_sequences({"temperature": 1.0})
    for sequence in sequences:
        sequence.constraint = NeverTwo()
    pairs, _ = pairs_through_drafts(sequences, is_coupled=False)
    check(pairs, expected_pairs({"temperature": 1.0}, NeverTwo()))


def test_coupled_pairs_are_the_very_ones_that_come_without_a_draft() -> None:
    parameters = {"temperature": 1.0}
    undrafted = make_sequences(parameters)
    for _ in range(2):
        for token in plain([Draw(sequence) for sequence in undrafted]):
            token.sequence.take(token.token_id)
    pairs, share = pairs_through_drafts(make_sequences(parameters), is_coupled=True)
    assert pairs == [(one.output_token_ids[0], one.output_token_ids[1]) for one in undrafted]
    assert share > 0.1


def test_the_coupled_verifier_accepts_no_less_than_its_bound_and_less_than_rejection() -> None:
    """(1 - TV) / (1 + TV) of the first token at least (Daliri et al. 2024), 1 - TV by rejection. Within 0.026: four
    standard deviations of 6,000 sequences."""
    target, draft = TARGET[START].softmax(dim=0), DRAFT[START].softmax(dim=0)
    distance = float((target - draft).abs().sum()) / 2
    shares = {}
    for is_coupled in (True, False):
        sequences = make_sequences({"temperature": 1.0})
        draws = [Draw(sequence) for sequence in sequences]
        tokens, probabilities = propose(logits_behind(DRAFT, draws), draws, shares_noise=is_coupled)
        judged = draws
        if not is_coupled:
            judged = [Draw(s, (), t, q) for s, t, q in zip(sequences, tokens.tolist(), probabilities, strict=True)]
        chosen = [token.token_id for token in plain(judged)]
        shares[is_coupled] = sum(a == b for a, b in zip(chosen, tokens.tolist(), strict=True)) / NUM_SEQUENCES
    assert shares[True] > (1 - distance) / (1 + distance) - 0.026
    assert shares[False] == pytest.approx(1 - distance, abs=0.026)
    assert shares[True] < shares[False]
