"""OpenMP's threads and waiting, set for children that load torch."""

import pytest

from shared.resilience.openmp import with_short_spins, with_threads


def test_threads_spin_shortly_and_everything_else_is_kept() -> None:
    before = {"PATH": "/bin"}
    assert with_short_spins(before) == {"PATH": "/bin", "GOMP_SPINCOUNT": "1000"}
    assert before == {"PATH": "/bin"}


@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "infinite"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_has_chosen_stays(chosen: dict[str, str]) -> None:
    assert with_short_spins(chosen) == chosen


VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def test_a_number_of_threads_is_told_to_everybody_who_asks_the_environment() -> None:
    before = {"PATH": "/bin", "OMP_NUM_THREADS": "64"}
    assert with_threads(before, 3) == {"PATH": "/bin", **dict.fromkeys(VARIABLES, "3")}
    assert before["OMP_NUM_THREADS"] == "64"


def test_without_a_number_there_is_a_thread_for_each_usable_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.resilience.openmp.usable_cores", lambda: 2)
    assert with_threads({}, None) == dict.fromkeys(VARIABLES, "2")
    assert with_threads({"OMP_NUM_THREADS": "5"}, None) == {"OMP_NUM_THREADS": "5"}
