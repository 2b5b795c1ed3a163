"""One claimed request while it runs: its choices, its place in the ledger's log, how it is going to end. No I/O.

Several prompts and n > 1 make choices: number `prompt * n + i` (with `best_of` in n's place). Every choice has its
own seed, derived from the request's, so that choices differ and each is the same wherever it runs.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.worker.best_choices import best_choices, ranked_sampling, wants_logprobs
from services.worker.engine.events import ChoiceStart, RequestTimings, Submit, TokensSampled
from services.worker.running_choice import Detokenizer, Echo, RunningChoice
from services.worker.work import Work
from shared.contracts.errors import DeadlineExceeded, PlatformError, RequestCancelled
from shared.contracts.events import Chunk, InferenceOutcome, Outcome, Usage
from shared.contracts.identifiers import ClaimToken
from shared.contracts.requests import Lane
from shared.openai.called_tools import with_tool_calls
from shared.openai.outcomes import outcome_error
from shared.openai.tool_grammar import ToolCallFormat, output_grammar

_LANE_ORDER = {Lane.INTERACTIVE: 0, Lane.BULK: 1}
_NO_DEADLINE = (1 << 53) - 1


class TextTokenizer:
    """What running requests need of `shared.tokenization`; the application binds it."""

    def __init__(
        self,
        *,
        new_detokenizer: Callable[[tuple[str, ...], Sequence[int]], Detokenizer],
        token_text: Callable[[int], str],
        end_token_ids: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        call_format: ToolCallFormat = ToolCallFormat.JSON,
    ) -> None:
        self.decode = decode
        self.call_format = call_format
        self.new_detokenizer = new_detokenizer
        self.token_text = token_text
        self.end_token_ids = end_token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a request ends other than by its own last token."""

    outcome: Outcome
    error: PlatformError


def choice_seed(seed: int, index: int) -> int:
    """The first choice keeps the request's seed: what a caller asked for with n = 1 is what it gets."""
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class RunningRequest:
    """Filled by engine events, emptied by flushes."""

    def __init__(
        self,
        work: Work,
        *,
        token: ClaimToken,
        seed: int,
        max_tokens: int,
        chunks: Sequence[Chunk],
        tokenizer: TextTokenizer,
        claimed_ns: int,
    ) -> None:
        assert work.request is not None
        assert work.prompts is not None
        self.work = work
        self.token = token
        self.request = work.request
        self.seed = seed
        self.max_tokens = max_tokens
        self.claimed_ns = claimed_ns
        self.ending: Ending | None = None
        self.timings: RequestTimings | None = None
        self.is_concluding = False
        self.num_resumed_tokens = 0
        self.num_accepted = self.num_rejected = 0
        self.last_flush_at = float("-inf")
        self._tokenizer = tokenizer
        self._unacknowledged: tuple[Chunk, ...] = ()
        self.choices = [self._new_choice(index) for index in range(self.request.num_choices)]
        self._resume(chunks)

    def _new_choice(self, index: int) -> RunningChoice:
        sampling = self.request.sampling
        prompt = self._prompt(index)
        return RunningChoice(
            index,
            new_detokenizer=lambda: self._tokenizer.new_detokenizer(sampling.stop, prompt),
            token_text=self._tokenizer.token_text,
            has_stop_strings=bool(sampling.stop),
            wants_logprobs=wants_logprobs(self.request),
            echo=Echo(text=self._prompt_text(index), token_ids=prompt) if self.request.echo else None,
        )

    def _prompt_text(self, choice: int) -> str:
        asked = self.request.prompts[choice // self.request.choices_per_prompt]
        return asked.text if asked.text is not None else self._tokenizer.decode(asked.token_ids or ())

    def _prompt(self, choice: int) -> list[int]:
        assert self.work.prompts is not None
        return self.work.prompts[choice // self.request.choices_per_prompt]

    def _resume(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            return
        by_choice: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            by_choice.setdefault(chunk.choice, []).append(chunk)
        for choice in self.choices:
            choice.resume(by_choice.get(choice.index, ()))
            choice.finish_if_at_end(max_tokens=self.max_tokens, end_token_ids=self._end_token_ids)
            self.num_resumed_tokens += len(choice.token_ids)

    @property
    def _end_token_ids(self) -> frozenset[int]:
        sampling = self.request.sampling
        eos = frozenset[int]() if sampling.ignore_eos else self._tokenizer.end_token_ids
        return eos | frozenset(sampling.stop_token_ids)

    def submission(self) -> Submit | None:
        """What the engine has to run; None when every choice has ended already."""
        open_choices = [choice for choice in self.choices if not choice.is_finished]
        if not open_choices:
            return None
        envelope = self.work.envelope
        lane = _LANE_ORDER[envelope.lane]
        deadline = _NO_DEADLINE if envelope.deadline_ms is None else envelope.deadline_ms
        return Submit(
            request_id=envelope.request_id,
            choices=[
                ChoiceStart(
                    index=choice.index,
                    prompt_token_ids=self._prompt(choice.index),
                    output_token_ids=choice.token_ids.copy(),
                    seed=choice_seed(self.seed, choice.index),
                )
                for choice in open_choices
            ],
            sampling=replace(ranked_sampling(self.request), seed=self.seed, max_tokens=self.max_tokens),
            eos_token_ids=sorted(self._tokenizer.end_token_ids),
            order=(lane, -envelope.priority, deadline, envelope.coordinates.timestamp_ms),
            cache_salt=envelope.tenant,
            traceparent=dict(envelope.trace_headers).get("traceparent"),
            prompt_logprobs=self.request.echo and self.request.sampling.logprobs is not None,
            grammar=output_grammar(self.request, self._tokenizer.call_format),
            speculation=self.request.speculation,
            predicted_token_ids=self.work.predicted_token_ids,
        )

    def accept(self, event: TokensSampled) -> bool:
        """True when the engine must be told to stop this choice: a stop string ended it."""
        if self.ending is not None:
            return False
        self.num_accepted += event.num_accepted
        self.num_rejected += len(event.draft_token_ids or ()) - event.num_accepted
        return self.choices[event.choice].accept(
            event.position, event.token_ids, event.logprobs, event.finish_reason, event.prompt_logprobs
        )

    def end(self, ending: Ending) -> None:
        """The first ending wins; a request whose choices have all finished is past being ended."""
        if self.ending is None and not self.is_generated:
            self.ending = ending

    @property
    def is_generated(self) -> bool:
        return all(choice.is_finished for choice in self.choices)

    @property
    def is_unflushed(self) -> bool:
        """Nothing of this run has reached the ledger yet: its first token goes out at once."""
        return self.last_flush_at == float("-inf")

    @property
    def is_over(self) -> bool:
        return self.ending is not None or self.is_generated

    @property
    def has_news(self) -> bool:
        return bool(self._unacknowledged) or any(choice.has_news for choice in self.choices)

    @property
    def num_open_tokens(self) -> int:
        """Prompt and output tokens it may still need: what it weighs on the engine."""
        return self.work.num_prompt_tokens + sum(
            self.max_tokens - len(choice.token_ids) for choice in self.choices if not choice.is_finished
        )

    def next_chunks(self) -> tuple[Chunk, ...]:
        """This flush's part; the same again until `acknowledge` (its answer may have been lost) or `refill`."""
        if not self._unacknowledged:
            chunks = (choice.next_chunk() for choice in self.choices)
            self._unacknowledged = tuple(chunk for chunk in chunks if chunk is not None)
        return self._unacknowledged

    def acknowledge(self) -> None:
        self._unacknowledged = ()

    def refill(self, next_positions: Mapping[int, int]) -> None:
        """The ledger is behind: what it lacks is sent with the next flush."""
        self._unacknowledged = ()
        for index, position in next_positions.items():
            self.choices[index].refill(position)

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.work.num_prompt_tokens,
            completion_tokens=sum(len(choice.token_ids) for choice in self.choices),
            cached_tokens=0 if self.timings is None else self.timings.cached_prompt_tokens,
            accepted_prediction_tokens=self.num_accepted,
            rejected_prediction_tokens=self.num_rejected,
        )

    def outcome(self) -> InferenceOutcome:
        """What is sealed; everything it is made of is in the log, the record or the ending."""
        ending = self.ending
        return InferenceOutcome(
            request_id=self.work.request_id,
            outcome=Outcome.COMPLETED if ending is None else ending.outcome,
            kind=self.request.kind,
            model=self.work.model,
            created_seconds=self.work.created_seconds,
            choices=tuple(
                with_tool_calls(choice, self.request, self.work.request_id)
                for choice in best_choices([choice.result() for choice in self.choices], self.request)
            ),
            usage=self.usage(),
            error=None if ending is None else outcome_error(ending.error),
            return_token_ids=self.request.return_token_ids,
            wants_logprobs=self.request.sampling.logprobs is not None,
        )


def cancelled(reason: str = "") -> Ending:
    error = RequestCancelled(reason or "the request was cancelled")
    return Ending(outcome=Outcome.CANCELLED, error=error)


def expired() -> Ending:
    error = DeadlineExceeded("the request's deadline passed before it was complete")
    return Ending(outcome=Outcome.EXPIRED, error=error)


def failed(error: PlatformError) -> Ending:
    return Ending(outcome=Outcome.FAILED, error=error)
