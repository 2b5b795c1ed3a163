"""Counters of served tokens: who comes back, who is forgotten."""

from collections import Counter

import pytest

from services.worker.engine.scheduling.fair_share import FairShare


def test_who_comes_later_starts_level_with_the_least_served() -> None:
    share = FairShare()
    share.enter("old")
    share.charge("old", 100)
    share.enter("new")
    assert share.served_tokens("new") == 100
    share.charge("new", 50)
    share.enter("newer")
    assert share.served_tokens("newer") == 100


def test_a_pause_neither_saves_up_nor_forgives() -> None:
    share = FairShare()
    share.enter("steady")
    share.enter("burst")
    share.charge("burst", 500)
    share.leave("burst")
    share.charge("steady", 100)
    share.enter("burst")
    assert share.served_tokens("burst") == 500
    share.leave("burst")
    share.charge("steady", 900)
    share.enter("burst")
    assert share.served_tokens("burst") == 1000


def test_the_second_request_of_a_tenant_changes_nothing() -> None:
    share = FairShare()
    share.enter("a")
    share.enter("b")
    share.charge("a", 10)
    share.enter("b")
    assert share.served_tokens("b") == 0


def test_an_idle_engine_remembers_nobody() -> None:
    share = FairShare()
    share.enter("a")
    share.charge("a", 10)
    share.leave("a")
    assert share.served_tokens("a") == 0
    share.check_integrity(Counter())


def test_the_check_notices_a_sequence_that_left_without_saying_so() -> None:
    share = FairShare()
    share.enter("a")
    with pytest.raises(AssertionError, match="in the engine"):
        share.check_integrity(Counter())
