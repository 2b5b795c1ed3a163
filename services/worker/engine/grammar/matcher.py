"""One choice's place in its grammar: which tokens may come next, and whether the output is complete.

Masks are computed on a thread (llguidance lets go of the interpreter) while the model runs. Nothing is raised:
what goes wrong is the matcher's `problem`, and the engine fails that request by name.
"""

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
        self._mask: Future[bytes] | None = None
        self.field = field
        self.problem: str | None = None
        self.is_finished = matcher.is_stopped()

    def copy(self) -> "GrammarMatcher":
        return GrammarMatcher(self._matcher.deep_copy(), self.field, self._threads)

    def begin_mask(self) -> None:
        if self._mask is None and self.problem is None:
            self._mask = self._threads.submit(self._matcher.compute_bitmask)

    def mask(self) -> bytes | None:
        """One bit per token, lowest first; None when there is a problem."""
        self.begin_mask()
        if self._mask is None:
            return None
        try:
            # Still queued behind others: computed here, so that nobody pays for a neighbour's grammar.
            was_queued = self._mask.cancel()
            mask = self._matcher.compute_bitmask() if was_queued else self._mask.result(timeout=_MASK_SECONDS)
        except MaskTimeout:
            self.problem = f"one of its steps takes more than {_MASK_SECONDS:.0f} s"
            return None
        self._mask = None
        self.problem = problem_of(self._matcher)
        return mask if self.problem is None else None

    def advance(self, token_ids: list[int]) -> None:
        """After the tokens that were drawn, or that a resumed choice begins with."""
        if self.problem is None and token_ids:
            self._matcher.consume_tokens(token_ids)
            self.is_finished = self._matcher.is_stopped()
            self.problem = self._matcher.get_error().partition("\n")[0] if self._matcher.is_error() else None
