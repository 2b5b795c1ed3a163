"""The cost model's arithmetic, and how the tokens of two runs are compared."""

import pytest

from services.worker.offline.speculation_run import Run, equal_share, expected_tokens, predicted_speed_up, together


def run(
    tokens: dict[str, list[int]], *, seconds: float = 1.0, steps: int = 10, accepted: int = 0, judged: int = 0
) -> Run:
    return Run(
        tokens=tokens,
        num_decoded=40,
        decode_seconds=seconds,
        draft_seconds=seconds / 2,
        num_sequence_steps=steps,
        num_steps=steps,
        num_drafted=30,
        num_accepted=accepted,
        num_judged=judged,
    )


@pytest.mark.parametrize(
    ("acceptance", "length", "tokens"), [(0.5, 1, 1.5), (0.5, 3, 1.875), (0.0, 8, 1.0), (1.0, 4, 5.0)]
)
def test_expected_tokens_are_the_sum_of_a_geometric_series(acceptance: float, length: int, tokens: float) -> None:
    assert expected_tokens(acceptance, length) == pytest.approx(tokens)
    if acceptance < 1:
        assert tokens == pytest.approx((1 - acceptance ** (length + 1)) / (1 - acceptance))


def test_a_step_that_costs_twice_as_much_and_brings_three_tokens_is_half_as_fast_again() -> None:
    without = run({}, seconds=1.0, steps=10)
    drafted = run({}, seconds=2.0, steps=10, accepted=20, judged=20)
    assert predicted_speed_up(drafted, without, 2) == pytest.approx(3 / 2)
    assert drafted.draft_step_seconds == pytest.approx(0.1)


def test_tokens_behind_the_first_that_differs_count_as_different() -> None:
    one, other = run({"a": [1, 2, 3, 4], "b": [5, 6]}), run({"a": [1, 9, 3, 4], "b": [5, 6]})
    assert equal_share(one, one) == 1.0
    assert equal_share(other, one) == pytest.approx(3 / 6)


def test_runs_add_up() -> None:
    whole = together([run({"a": [1]}, seconds=1.0, accepted=3, judged=4), run({"b": [2]}, seconds=3.0)])
    assert whole.tokens == {"a": [1], "b": [2]}
    assert whole.tokens_per_second == pytest.approx(80 / 4)
    assert whole.step_seconds == pytest.approx(4 / 20)
    assert whole.acceptance == 0.75


def test_a_run_without_drafts_has_no_acceptance() -> None:
    assert run({}).acceptance == 0.0
    assert run({}, accepted=3, judged=4).acceptance == 0.75
