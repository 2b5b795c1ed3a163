"""One choice's place in its grammar: which tokens may come next, and whether the output is complete.

Masks are computed on a thread (llguidance lets go of the interpreter) while the model runs, those behind a draft's
tokens on a copy of the matcher (its rollback does not undo a complete output). Nothing is raised: what goes wrong is
the matcher's `problem`, and the engine fails that request by name.
"""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as MaskTimeout

from llguidance import LLMatcher

_MASK_SECONDS = 2.0


def problem_of(matcher: LLMatcher) -> str | None:
    """What stopped it, other than a complete output."""
    if matcher.is_error():
        return matcher.get_error()
    if matcher.is_stopped() and not matcher.is_accepting():
        return f"no output satisfies it ({matcher.stop_reason()})"
    return None


class GrammarMatcher:
    """Implements `services.worker.engine.sequence.TokenConstraint`."""

    def __init__(self, matcher: LLMatcher, field: str, threads: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._threads = threads
        self._pending: Future[list[bytes]] | None = None
        self._masks: list[bytes] | None = None
        self._draft: list[int] = []
        self.field = field
        self.problem: str | None = None
        self.is_finished = matcher.is_stopped()

    def copy(self) -> "GrammarMatcher":
        return GrammarMatcher(self._matcher.deep_copy(), self.field, self._threads)

    def count_allowed(self, token_ids: Iterable[int]) -> int:
        """How many of these may follow, one behind the other."""
        return 0 if self.problem is not None else self._matcher.validate_tokens(list(token_ids))

    def begin_mask(self, draft: Iterable[int] = ()) -> None:
        if self.problem is None and self._pending is None and self._masks is None:
            self._draft = list(draft)
            self._pending = self._threads.submit(self._compute)

    def mask(self, index: int = 0) -> bytes | None:
        """Behind the first `index` tokens of the draft: one bit per token, lowest first.

        None when there is a problem, or the output is complete before.
        """
        if self._masks is None:
            self.begin_mask()
            self._masks = self._finish()
        return self._masks[index] if self.problem is None and index < len(self._masks) else None

    def _finish(self) -> list[bytes]:
        if self._pending is None:
            return []
        try:
            # Still queued behind others: computed here, so that nobody pays for a neighbour's grammar.
            was_queued = self._pending.cancel()
            masks = self._compute() if was_queued else self._pending.result(timeout=_MASK_SECONDS)
        except MaskTimeout:
            self.problem = f"one of its steps takes more than {_MASK_SECONDS:.0f} s"
            return []
        self._pending = None
        self.problem = problem_of(self._matcher)
        return masks

    def _compute(self) -> list[bytes]:
        masks = [self._matcher.compute_bitmask()]
        if not self._draft:
            return masks
        ahead = self._matcher.deep_copy()
        for token_id in self._draft:
            if not ahead.validate_tokens([token_id]):
                break
            ahead.consume_tokens([token_id])
            if ahead.is_stopped():
                break
            masks.append(ahead.compute_bitmask())
        return masks

    def advance(self, token_ids: list[int]) -> None:
        """After the tokens that were drawn, or that a resumed choice begins with."""
        if self.problem is None and token_ids:
            self._masks = None
            self._matcher.consume_tokens(token_ids)
            self.is_finished = self._matcher.is_stopped()
            self.problem = self._matcher.get_error().partition("\n")[0] if self._matcher.is_error() else None
