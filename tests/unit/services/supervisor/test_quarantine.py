"""From complaints to commands, and back."""

from dataclasses import dataclass, field

import pytest

from services.supervisor.fleet import FleetView, fold_heartbeat
from services.supervisor.outliers import Outlier
from services.supervisor.quarantine import Decision, Quarantine, QuarantineRules, Standing
from shared.contracts.fleet import FleetCommandKind
from shared.contracts.identifiers import Incarnation, WorkerId
from tests.unit.services.supervisor.builders import heartbeat

W0 = WorkerId("w-0")
SLOW = [Outlier(worker_id=W0, ratio=3.0)]
QUARANTINE, RESUME = FleetCommandKind.QUARANTINE, FleetCommandKind.RESUME


@dataclass
class Ward:
    """One worker that obeys, unless it is deaf; looked at every half second."""

    quarantine: Quarantine = field(default_factory=lambda: Quarantine(QuarantineRules()))
    now: float = 0.0
    is_slow: bool = False
    is_deaf: bool = False
    is_out: bool = False
    life: str = "a"
    number: int = 0
    view: FleetView = field(default_factory=FleetView)
    sent: list[Decision] = field(default_factory=list)

    def run(self, seconds: float) -> list[FleetCommandKind]:
        """The new decisions of this time."""
        kinds = []
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            self.number += 1
            beat = heartbeat(number=self.number, life=self.life, is_quarantined=self.is_out)
            self.view = fold_heartbeat(self.view, beat, now=self.now, now_ms=self.number).view
            outliers = SLOW if self.is_slow and not self.is_out else []
            for decision in self.quarantine.decide(self.view, outliers, now=self.now):
                self.sent.append(decision)
                if not self.is_deaf:
                    self.is_out = decision.kind is QUARANTINE
                if decision.is_new:
                    kinds.append(decision.kind)
        return kinds

    @property
    def standing(self) -> Standing:
        return self.quarantine.standing_of(W0)


@pytest.fixture
def ward() -> Ward:
    return Ward()


def test_a_worker_slow_for_five_seconds_is_quarantined_and_told_why(ward: Ward) -> None:
    ward.is_slow = True
    assert ward.run(5.0) == []
    assert ward.run(1.0) == [QUARANTINE]
    assert ward.sent[0].reason == "3.0 times as slow as its pool"
    assert ward.quarantine.ejected == [W0]


def test_slowness_with_a_break_is_not_enough(ward: Ward) -> None:
    for _ in range(5):
        ward.is_slow = True
        ward.run(4.0)
        ward.is_slow = False
        ward.run(0.5)
    assert ward.sent == []


def test_after_its_time_it_is_tried_and_after_probation_it_is_healthy(ward: Ward) -> None:
    ward.is_slow = True
    ward.run(6.0)
    ward.is_slow = False
    assert ward.run(31.0) == [RESUME]
    assert ward.standing is Standing.PROBATION
    ward.run(21.0)
    assert ward.standing is Standing.HEALTHY


def test_slow_again_on_probation_it_is_out_for_twice_as_long_each_time(ward: Ward) -> None:
    ward.is_slow = True
    ward.run(6.0)
    terms = []
    for _ in range(4):
        began = ward.now
        while not ward.run(0.5):
            pass
        terms.append(round(ward.now - began))
        while not ward.run(0.5):
            pass
    assert terms == [30, 60, 120, 240]


def test_at_the_start_of_probation_what_was_measured_before_does_not_count(ward: Ward) -> None:
    ward.is_slow = True
    ward.run(6.0)
    while not ward.run(0.5):
        pass
    assert ward.run(9.5) == []
    assert ward.run(1.5) == [QUARANTINE]


def test_a_command_is_repeated_until_the_heartbeat_agrees(ward: Ward) -> None:
    ward.is_slow = ward.is_deaf = True
    ward.run(14.0)
    assert [decision.is_new for decision in ward.sent] == [True] + [False] * 4, "every two seconds"
    ward.is_deaf = False
    ward.run(4.0)
    sent = len(ward.sent)
    ward.run(4.0)
    assert len(ward.sent) == sent


def test_a_worker_that_is_quarantined_for_no_reason_known_here_is_resumed(ward: Ward) -> None:
    """The supervisor that ordered it is gone and took its memory along."""
    ward.is_out = True
    assert ward.run(1.0) == []
    assert ward.sent[0].kind is RESUME
    assert not ward.is_out


def test_an_operators_quarantine_does_not_end_by_itself(ward: Ward) -> None:
    ward.run(1.0)
    ward.quarantine.order(W0, Incarnation("w-0.a"), is_quarantined=True, now=ward.now)
    assert ward.run(1.0) == [QUARANTINE]
    assert ward.run(2_000.0) == []
    ward.quarantine.order(W0, Incarnation("w-0.a"), is_quarantined=False, now=ward.now)
    assert ward.run(1.0) == [RESUME]
    assert ward.standing is Standing.HEALTHY


def test_an_operators_resume_ends_the_policys_quarantine(ward: Ward) -> None:
    ward.is_slow = True
    ward.run(6.0)
    ward.is_slow = False
    ward.quarantine.order(W0, Incarnation("w-0.a"), is_quarantined=False, now=ward.now)
    assert ward.run(1.0) == [RESUME]


def test_a_new_life_starts_clean_but_not_against_an_operators_word(ward: Ward) -> None:
    ward.is_slow = True
    ward.run(6.0)
    ward.life, ward.is_slow, ward.is_out = "b", False, False
    ward.run(1.0)
    assert ward.standing is Standing.HEALTHY
    ward.quarantine.order(W0, Incarnation("w-0.b"), is_quarantined=True, now=ward.now)
    ward.run(1.0)
    ward.life, ward.is_out = "c", False
    ward.run(1.0)
    assert (ward.standing, ward.is_out) == (Standing.QUARANTINED, True)
