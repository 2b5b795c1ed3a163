"""A request's prompts as token ids, checked against what the engine can hold. Knows the tokenizer, no engine.

Short prompts are tokenized where they are; long ones in a thread, because the event loop must not wait: Kafka's
heartbeats and the lease run on it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.worker.tokens_only import TokensOnly, check_needs_no_text
from services.worker.work import Work
from shared.contracts.errors import InvalidRequest, PromptTooLong, UnknownModel
from shared.contracts.requests import ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.tools import Tool

_LONG_PROMPT_CHARACTERS = 4_096
_CHARACTERS_PER_TOKEN_AT_MOST = 64
"""A prompt longer than this many characters per token of the limit is refused without tokenizing it."""


class PromptTokenizer(Protocol):
    """Thread-safe. `encode_chat` raises `InvalidRequest` when the template refuses the messages."""

    @property
    def vocabulary_size(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_prompt(self, text: str) -> list[int]: ...
    def encode_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> list[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the engine said when it was ready."""

    models: frozenset[str]
    max_model_tokens: int
    vocabulary_size: int
    max_choices: int


class PromptReader:
    """`read` is called once per claim; the tokens are kept on the work."""

    def __init__(self, tokenizer: PromptTokenizer, limits: Callable[[], EngineLimits]) -> None:
        self._tokenizer = tokenizer
        self._read_limits = limits

    @property
    def _limits(self) -> EngineLimits:
        return self._read_limits()

    async def read(self, work: Work) -> int:
        """Fill `work.prompts` and return the output tokens a choice may have. Raises a `RequestError`."""
        request = work.request
        assert request is not None
        self._check_request(request)
        if work.prompts is None:
            self._check_characters(request)
            if _num_characters(request) > _LONG_PROMPT_CHARACTERS:
                work.prompts = await asyncio.to_thread(self._tokenize, request)
            else:
                work.prompts = self._tokenize(request)
        if request.prediction and not work.predicted_token_ids:
            work.predicted_token_ids = await asyncio.to_thread(self._tokenizer.encode, request.prediction)
        return self._max_output_tokens(request, work.prompts)

    def _check_request(self, request: InferenceRequest) -> None:
        limits = self._limits
        if isinstance(self._tokenizer, TokensOnly):
            check_needs_no_text(request)
        if request.model is not None and request.model not in limits.models:
            raise UnknownModel(f"The model `{request.model}` does not exist here.", param="model")
        if request.num_choices > limits.max_choices:
            raise InvalidRequest(
                f"{request.num_choices} choices are more than the {limits.max_choices} that can run at once.",
                param=_choices_field(request),
            )

    def _check_characters(self, request: InferenceRequest) -> None:
        most = self._limits.max_model_tokens * _CHARACTERS_PER_TOKEN_AT_MOST
        longest = _num_characters(request) // max(1, len(request.prompts))
        if longest > most:
            raise PromptTooLong(
                f"This model's maximum context length is {self._limits.max_model_tokens} tokens; "
                f"{longest} characters are more than that in any language.",
                param=_prompt_field(request),
            )

    def _tokenize(self, request: InferenceRequest) -> list[list[int]]:
        if request.kind is RequestKind.CHAT:
            return [self._tokenizer.encode_chat(request.messages, request.tools if request.may_call_tools else ())]
        return [self._tokenize_prompt(prompt) for prompt in request.prompts]

    def _tokenize_prompt(self, prompt: Prompt) -> list[int]:
        if prompt.token_ids is None:
            assert prompt.text is not None
            return self._tokenizer.encode_prompt(prompt.text)
        size = self._limits.vocabulary_size
        for token_id in prompt.token_ids:
            if not 0 <= token_id < size:
                raise InvalidRequest(f"Token id {token_id} is not in the vocabulary of {size} tokens.", param="prompt")
        return list(prompt.token_ids)

    def _max_output_tokens(self, request: InferenceRequest, prompts: list[list[int]]) -> int:
        field = _prompt_field(request)
        longest = max(map(len, prompts))
        limit = self._limits.max_model_tokens
        if min(map(len, prompts)) == 0:
            raise InvalidRequest("The prompt is empty.", param=field)
        asked = request.sampling.max_tokens
        if longest + (1 if asked is None else asked) > limit:
            wanted = "" if asked is None else f" and up to {asked} for the answer"
            raise PromptTooLong(
                f"This model's maximum context length is {limit} tokens; "
                f"you asked for {longest} tokens in the {field}{wanted}.",
                param=field,
            )
        return limit - longest if asked is None else asked


def _choices_field(request: InferenceRequest) -> str:
    if request.keeps_the_best:
        return "best_of"
    return "n" if request.sampling.n > 1 else "prompt"


def _num_characters(request: InferenceRequest) -> int:
    return (
        sum(len(message.content) for message in request.messages)
        + sum(len(tool.description or "") + len(tool.parameters or "") for tool in request.tools)
        + len(request.prediction or "")
        + sum(len(prompt.text or prompt.token_ids or ()) for prompt in request.prompts)
    )


def _prompt_field(request: InferenceRequest) -> str:
    return "messages" if request.kind is RequestKind.CHAT else "prompt"
