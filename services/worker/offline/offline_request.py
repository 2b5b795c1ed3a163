"""One request of a batch while it runs: prompts as tokens, choices, the outcome. No engine, no files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.worker.best_choices import best_choices, ranked_sampling, wants_logprobs
from services.worker.engine.events import ChoiceStart, RequestTimings, Submit, TokensSampled
from services.worker.running_choice import Echo, RunningChoice
from services.worker.running_request import choice_seed
from services.worker.tokens_only import check_needs_no_text, show_token
from shared.contracts.errors import InvalidRequest, PromptTooLong
from shared.contracts.events import InferenceOutcome, Outcome, Usage
from shared.contracts.identifiers import RequestId, seed_from_request_id
from shared.contracts.requests import InferenceRequest, Prompt, RequestKind
from shared.openai.called_tools import with_tool_calls
from shared.openai.tool_call_format import call_format_of
from shared.openai.tool_grammar import ToolCallFormat, output_grammar
from shared.tokenization.incremental_detokenizer import IncrementalDetokenizer, NoTextDetokenizer
from shared.tokenization.tokenizer import Tokenizer


class EngineLimits(Protocol):
    """What a request must fit; `EngineReady` has both."""

    @property
    def vocabulary_size(self) -> int: ...
    @property
    def max_model_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPrompts:
    token_ids: list[list[int]]
    max_tokens: int
    """Output tokens that each choice may have."""


def prepare_prompts(request: InferenceRequest, tokenizer: Tokenizer | None, limits: EngineLimits) -> PreparedPrompts:
    """Tokenize, and hold against the limits. `tokenizer` None: prompts of token ids only. Raises RequestError."""
    field = "messages" if request.kind is RequestKind.CHAT else "prompt"
    if tokenizer is None:
        check_needs_no_text(request)
    if request.kind is RequestKind.CHAT:
        assert tokenizer is not None
        prompts = [tokenizer.encode_chat(request.messages, request.tools if request.may_call_tools else ())]
    else:
        prompts = [_prompt_token_ids(prompt, tokenizer, limits.vocabulary_size) for prompt in request.prompts]
    if not all(prompts):
        raise InvalidRequest("The prompt is empty.", param=field)
    longest, asked = max(map(len, prompts)), request.sampling.max_tokens
    if longest + (1 if asked is None else asked) > limits.max_model_tokens:
        wanted = "" if asked is None else f" and up to {asked} for the answer"
        raise PromptTooLong(
            f"This model's maximum context length is {limits.max_model_tokens} tokens; "
            f"you asked for {longest} tokens in the {field}{wanted}.",
            param=field,
        )
    return PreparedPrompts(token_ids=prompts, max_tokens=limits.max_model_tokens - longest if asked is None else asked)


def _prompt_token_ids(prompt: Prompt, tokenizer: Tokenizer | None, vocabulary_size: int) -> list[int]:
    if prompt.token_ids is None:
        assert prompt.text is not None
        assert tokenizer is not None
        return tokenizer.encode_prompt(prompt.text)
    for token_id in prompt.token_ids:
        if not 0 <= token_id < vocabulary_size:
            raise InvalidRequest(
                f"Token id {token_id} is not in the vocabulary of {vocabulary_size} tokens.", param="prompt"
            )
    return list(prompt.token_ids)


class OfflineRequest:
    """Filled by the engine's events until every choice has ended."""

    def __init__(
        self,
        request_id: RequestId,
        request: InferenceRequest,
        prompts: PreparedPrompts,
        tokenizer: Tokenizer | None,
        *,
        order: int,
    ) -> None:
        self.request_id = request_id
        self.request = request
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._order = order
        self._seed = request.sampling.seed if request.has_own_seed else seed_from_request_id(request_id)
        self._cached_tokens = 0
        self._call_format = ToolCallFormat.JSON if tokenizer is None else call_format_of(tokenizer)
        self._choices = [self._new_choice(index) for index in range(request.num_choices)]

    def _prompt_of(self, choice: int) -> list[int]:
        return self._prompts.token_ids[choice // self.request.choices_per_prompt]

    def _new_choice(self, index: int) -> RunningChoice:
        sampling, tokenizer, prompt = self.request.sampling, self._tokenizer, self._prompt_of(index)

        def new_detokenizer() -> IncrementalDetokenizer | NoTextDetokenizer:
            if tokenizer is None:
                return NoTextDetokenizer()
            return IncrementalDetokenizer(tokenizer, sampling.stop, prompt)

        return RunningChoice(
            index,
            new_detokenizer=new_detokenizer,
            token_text=show_token if tokenizer is None else tokenizer.token_text,
            has_stop_strings=bool(sampling.stop),
            wants_logprobs=wants_logprobs(self.request),
            echo=Echo(text=self._prompt_text(index), token_ids=prompt) if self.request.echo else None,
        )

    def _prompt_text(self, choice: int) -> str:
        asked = self.request.prompts[choice // self.request.choices_per_prompt]
        if asked.text is not None:
            return asked.text
        return "" if self._tokenizer is None else self._tokenizer.decode(asked.token_ids or ())

    def submission(self, eos_token_ids: Sequence[int]) -> Submit:
        return Submit(
            request_id=self.request_id,
            choices=[
                ChoiceStart(
                    index=choice.index,
                    prompt_token_ids=self._prompt_of(choice.index),
                    seed=choice_seed(self._seed, choice.index),
                )
                for choice in self._choices
            ],
            sampling=replace(ranked_sampling(self.request), seed=self._seed, max_tokens=self._prompts.max_tokens),
            eos_token_ids=list(eos_token_ids),
            order=(0, 0, 0, self._order),
            prompt_logprobs=self.request.echo and self.request.sampling.logprobs is not None,
            grammar=output_grammar(self.request, self._call_format),
        )

    def accept(self, event: TokensSampled) -> bool:
        """True when a stop string ended the choice: the engine must be told."""
        return self._choices[event.choice].accept(
            event.position, event.token_ids, event.logprobs, event.finish_reason, event.prompt_logprobs
        )

    def note_timings(self, timings: RequestTimings) -> None:
        self._cached_tokens = timings.cached_prompt_tokens

    @property
    def is_finished(self) -> bool:
        return all(choice.is_finished for choice in self._choices)

    def outcome(self, *, model: str, created_seconds: int) -> InferenceOutcome:
        best = best_choices([choice.result() for choice in self._choices], self.request)
        choices = tuple(with_tool_calls(choice, self.request, self.request_id) for choice in best)
        return InferenceOutcome(
            request_id=self.request_id,
            outcome=Outcome.COMPLETED,
            kind=self.request.kind,
            model=model,
            created_seconds=created_seconds,
            choices=choices,
            usage=Usage(
                prompt_tokens=sum(map(len, self._prompts.token_ids)),
                completion_tokens=sum(len(choice.token_ids) for choice in self._choices),
                cached_tokens=self._cached_tokens,
            ),
            return_token_ids=self.request.return_token_ids,
            wants_logprobs=self.request.sampling.logprobs is not None,
        )
