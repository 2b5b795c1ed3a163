"""How suspicious a silence is."""

import random

from services.supervisor.phi_accrual import PhiAccrual


def steady(seconds: float = 0.5, *, number: int = 50) -> tuple[PhiAccrual, float]:
    detector, now = PhiAccrual(), 0.0
    for _ in range(number):
        now += seconds
        detector.heard(now)
    return detector, now


def test_it_grows_with_the_silence_and_is_small_at_the_usual_time() -> None:
    detector, now = steady()
    phis = [detector.phi(now + silence) for silence in (0.1, 0.5, 0.8, 1.0, 1.5, 2.0)]
    assert phis == sorted(phis)
    assert phis[1] < 0.5
    assert phis[4] > 12


def test_the_same_silence_is_less_suspicious_of_a_worker_that_was_never_regular() -> None:
    regular, now = steady()
    bumpy, then = PhiAccrual(), 0.0
    distances = random.Random(1)
    for _ in range(50):
        then += distances.uniform(0.1, 2.0)
        bumpy.heard(then)
    assert bumpy.phi(then + 1.5) < 2 < 12 < regular.phi(now + 1.5)


def test_nobody_is_suspected_before_enough_is_known() -> None:
    detector, now = steady(number=5)
    assert detector.phi(now + 100) == 0
    assert PhiAccrual().phi(5.0) == 0


def test_phi_says_how_rarely_a_normal_worker_is_so_late() -> None:
    """phi 2 is one in a hundred: of normally distributed distances about 1 % come later. (3 sigma of 4,000: 0.5 %.)"""
    distances = random.Random(7)
    detector, now = PhiAccrual(kept=1_000, least_deviation_seconds=0.01), 0.0
    for _ in range(1_000):
        now += max(0.01, distances.gauss(0.5, 0.1))
        detector.heard(now)
    late = sum(detector.phi(now + max(0.01, distances.gauss(0.5, 0.1))) > 2 for _ in range(4_000))
    assert 20 <= late <= 60


def test_an_endless_silence_has_a_finite_phi() -> None:
    detector, now = steady()
    assert detector.phi(now + 1e6) == 99


def test_old_distances_are_forgotten() -> None:
    detector, now = PhiAccrual(kept=10), 0.0
    for seconds in [5.0] * 20 + [0.5] * 10:
        now += seconds
        detector.heard(now)
    assert detector.phi(now + 2) > 12
