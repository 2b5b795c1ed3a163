"""Drafts from what the model itself said while it was verifying others: lookahead decoding in one line.

A verification computes the model's choice behind every drafted token, the rejected ones too. Those choices are one
Jacobi iteration of the positions ahead: shifted, they are the next guess of the same positions, and what they say
follows what goes into a table of runs, together with the text. A run that the model has once said ahead of time is
drafted when its beginning comes. With the coupled verifier choices are made with each position's own noise, so the
iteration runs toward the very tokens that will be drawn, sampled ones as well.

The paper's window of several iterations side by side is left out: see docs/decisions.md.

Source: Fu et al. 2024, "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding", 3; Santilli et al.
2023, "Accelerating Transformer Inference for Translation via Parallel Decoding" (Jacobi).
"""

from __future__ import annotations

from services.worker.engine.batch import Draft, Verdict
from services.worker.engine.sequence import Sequence
from services.worker.engine.speculation.draft_method import DraftTask

_SIZES = (3, 2, 1)


class SuccessorTable:
    """What came last behind each run of 3, 2 or 1 tokens, in the text or in the model's own guesses."""

    def __init__(self) -> None:
        self._successors: dict[tuple[int, ...], int] = {}
        self._num_read = 0

    def read(self, text: list[int]) -> None:
        """`text` is what it was, and more."""
        for end in range(max(self._num_read, 1), len(text)):
            self.add(text[max(end - _SIZES[0], 0) : end], text[end])
        self._num_read = len(text)

    def add(self, before: list[int], token_id: int) -> None:
        for size in _SIZES:
            if size <= len(before):
                self._successors[tuple(before[len(before) - size :])] = token_id

    def continuation(self, text: list[int], num_tokens: int) -> list[int]:
        """Token by token behind `text`, as far as there is something known."""
        known = text[-_SIZES[0] :]
        start = len(known)
        while len(known) < start + num_tokens:
            runs = (tuple(known[len(known) - size :]) for size in _SIZES if size <= len(known))
            found = next((self._successors[run] for run in runs if run in self._successors), None)
            if found is None:
                break
            known.append(found)
        return known[start:]


class _Ahead:
    """One sequence's: `guess` is what the latest iteration has at the positions from `start` on."""

    def __init__(self) -> None:
        self.table = SuccessorTable()
        self.guess: list[int] = []
        self.start = 0

    def guess_behind(self, num_tokens: int) -> list[int]:
        """Of a sequence that has so many now."""
        return self.guess[max(num_tokens - self.start, 0) :]


class Lookahead:
    name = "lookahead"

    def __init__(self) -> None:
        self._ahead: dict[Sequence, _Ahead] = {}

    def propose(self, tasks: list[DraftTask]) -> list[Draft]:
        return [Draft(token_ids=tuple(self._guess(task.sequence, task.num_tokens))) for task in tasks]

    def judged(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            ahead = self._ahead.get(verdict.sequence)
            if ahead is None:
                continue
            drafted, chosen, place = list(verdict.draft.token_ids), verdict.target_token_ids, verdict.num_accepted
            text = verdict.sequence.token_ids
            # What the draft was made behind: the text without what stood of it and the model's own token.
            before = text[max(len(text) - 1 - place - _SIZES[0], 0) : len(text) - 1 - place]
            ahead.guess, ahead.start = list(chosen[place + 1 :]), len(text)
            for index in range(place + 1, len(chosen)):
                ahead.table.add([*before, *drafted[:index]][-_SIZES[0] :], chosen[index])

    def forget(self, sequence: Sequence) -> None:
        self._ahead.pop(sequence, None)

    def _guess(self, sequence: Sequence, num_tokens: int) -> list[int]:
        """What is known to follow, then what the iteration has; where there is nothing yet, any token begins it."""
        ahead = self._ahead.setdefault(sequence, _Ahead())
        ahead.table.read(sequence.token_ids)
        known = ahead.table.continuation(sequence.token_ids, num_tokens)
        guess = [*known, *ahead.guess_behind(sequence.num_tokens)[len(known) : num_tokens]]
        missing = num_tokens - len(guess)
        return [*guess, *([guess[-1] if guess else sequence.token_ids[-1]] * missing)]
