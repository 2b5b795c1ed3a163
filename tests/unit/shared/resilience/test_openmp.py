"""OpenMP's waiting, set for children that load torch."""

import pytest

from shared.resilience.openmp import with_short_spins


def test_threads_spin_shortly_and_everything_else_is_kept() -> None:
    before = {"PATH": "/bin"}
    assert with_short_spins(before) == {"PATH": "/bin", "GOMP_SPINCOUNT": "1000"}
    assert before == {"PATH": "/bin"}


@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "infinite"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_has_chosen_stays(chosen: dict[str, str]) -> None:
    assert with_short_spins(chosen) == chosen
