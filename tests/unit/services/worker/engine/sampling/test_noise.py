"""The counter-based numbers: fixed for ever, and as even as numbers should be."""

from services.worker.engine.sampling.noise import uniform

PROMISED = {(0, 0): 0.6524484863740322, (0, 1): 0.7012121095215252, (1, 0): 0.36818951565166946}


def test_a_number_depends_on_seed_and_position_only_and_never_changes() -> None:
    """These values are a promise: a worker of another version must resume with the same draws."""
    assert [uniform(0, 0), uniform(0, 1), uniform(1, 0)] == [PROMISED[key] for key in ((0, 0), (0, 1), (1, 0))]


def test_numbers_lie_in_the_unit_interval_and_are_spread_evenly() -> None:
    """Chi-square over 16 bins of 16,000 fixed numbers: 44.3 is the 1 in 10,000 limit at 15 degrees of freedom."""
    counts = [0] * 16
    for seed in range(40):
        for position in range(400):
            number = uniform(seed, position)
            assert 0.0 <= number < 1.0
            counts[int(number * 16)] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 44.3


def test_neighbouring_seeds_and_positions_do_not_repeat_each_other() -> None:
    assert len({uniform(seed, position) for seed in range(100) for position in range(100)}) == 10_000


def test_any_integer_is_a_seed() -> None:
    assert len({uniform(seed, 3) for seed in (-1, 0, 1, 2**63, 2**64 - 2)}) == 5
