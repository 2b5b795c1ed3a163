"""Every state that can be reached, and the first one that breaks a promise, with the way there.

Two questions: is there a state with a problem (safety), and is there one from which, with no further fault, the
request can no longer be answered (liveness)?
"""

from collections import deque
from dataclasses import dataclass

from tests.model.delivery import moves
from tests.model.ledger_rules import Rules
from tests.model.world import State, is_answered


@dataclass(frozen=True, slots=True)
class Exploration:
    num_states: int
    problem: str = ""
    way: tuple[str, ...] = ()
    """The labels of the moves that lead to the problem."""


def explore(begin: State, rules: Rules, *, limit: int = 2_000_000) -> Exploration:
    """Breadth first, so that a counterexample is a shortest one. Raises RuntimeError beyond `limit` states."""
    came_from: dict[State, tuple[State, str] | None] = {begin: None}
    before: dict[State, list[State]] = {}
    answered: list[State] = []
    queue = deque([begin])
    while queue:
        state = queue.popleft()
        if state.problem:
            return Exploration(len(came_from), state.problem, _way(came_from, state))
        if is_answered(state):
            answered.append(state)
        for move in moves(state, rules):
            if not move.is_fault:
                before.setdefault(move.state, []).append(state)
            if move.state not in came_from:
                came_from[move.state] = state, move.label
                queue.append(move.state)
        if len(came_from) > limit:
            raise RuntimeError(f"more than {limit} states")
    stuck = _first_stuck(came_from, before, answered)
    if stuck is not None:
        return Exploration(len(came_from), "it can never be answered", _way(came_from, stuck))
    return Exploration(len(came_from))


def _first_stuck(
    came_from: dict[State, tuple[State, str] | None], before: dict[State, list[State]], answered: list[State]
) -> State | None:
    """The first state in order of discovery from which no moves without a fault lead to an answer."""
    hopeful, queue = set(answered), deque(answered)
    while queue:
        for earlier in before.get(queue.popleft(), ()):
            if earlier not in hopeful:
                hopeful.add(earlier)
                queue.append(earlier)
    return next((state for state in came_from if state not in hopeful), None)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    labels = []
    while (step := came_from[state]) is not None:
        state, label = step
        labels.append(label)
    return tuple(reversed(labels))
