"""Ranges that every request is held to, whichever format it came in. Numbers and one check; no parsing."""

import math

from shared.contracts.errors import InvalidRequest
from shared.contracts.requests import ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters

MAX_TEMPERATURE = 2.0
MAX_PENALTY = 2.0
MIN_REPETITION_PENALTY = 0.01
MAX_REPETITION_PENALTY = 100.0
"""vLLM only asks for more than 0; beyond these bounds logits overflow."""
MAX_CHOICES = 128
MAX_CHAT_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5
MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 1_024
MAX_STOP_TOKEN_IDS = 1_024
MAX_MODEL_CHARACTERS = 256
MAX_LOGIT_BIAS = 100.0
MAX_BIASED_TOKENS = 1_024
MAX_GRAMMAR_CHARACTERS = 65_536
"""Of a schema, a regular expression or a grammar; of all tools' parameters together."""
MAX_GRAMMAR_CHOICES = 1_024
MAX_TOOLS = 128
MAX_TOKEN = (1 << 31) - 1
"""Largest token id and largest count of tokens."""
MIN_SEED = -(1 << 63)
MAX_SEED = (1 << 63) - 1
ROLES = ("system", "developer", "user", "assistant", "tool")

# field, lowest, highest, whether the lowest itself is allowed
_RANGES = (
    ("temperature", 0.0, MAX_TEMPERATURE, True),
    ("top_p", 0.0, 1.0, False),
    ("top_k", 0, MAX_TOKEN, True),
    ("min_p", 0.0, 1.0, True),
    ("repetition_penalty", MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY, True),
    ("frequency_penalty", -MAX_PENALTY, MAX_PENALTY, True),
    ("presence_penalty", -MAX_PENALTY, MAX_PENALTY, True),
    ("n", 1, MAX_CHOICES, True),
    ("max_tokens", 0, MAX_TOKEN, True),
    ("min_tokens", 0, MAX_TOKEN, True),
)


def positive_seed(seed: int) -> int:
    """The engine's seeds have 63 bits; a negative one is as good as any."""
    return seed & MAX_SEED


def check_combinations(request: InferenceRequest) -> None:
    """What no single field shows. Raises InvalidRequest."""
    sampling = request.sampling
    _check_best_of(request)
    if request.num_choices > MAX_CHOICES:
        field = "best_of" if request.keeps_the_best else "n"
        raise InvalidRequest(
            f"{field} times the number of prompts is {request.num_choices}, more than {MAX_CHOICES}.", param=field
        )
    if sampling.max_tokens == 0 and not request.echo:
        raise InvalidRequest("max_tokens must be at least 1; 0 is for prompts that are echoed.", param="max_tokens")
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequest("min_tokens is larger than max_tokens.", param="min_tokens")


def _check_best_of(request: InferenceRequest) -> None:
    if request.best_of is None:
        return
    if request.kind is RequestKind.CHAT:
        raise InvalidRequest("best_of is for completions only.", param="best_of")
    if request.best_of < request.sampling.n:
        raise InvalidRequest("best_of is smaller than n.", param="best_of")
    if request.keeps_the_best and request.stream:
        raise InvalidRequest("best_of above n cannot be streamed: the best are known at the end.", param="best_of")


def check_request(request: InferenceRequest) -> None:
    """Holds a request that was not read from JSON to the same limits. Raises InvalidRequest."""
    if request.model is not None and not 1 <= len(request.model) <= MAX_MODEL_CHARACTERS:
        raise InvalidRequest(f"model must have 1 to {MAX_MODEL_CHARACTERS} characters.", param="model")
    if request.include_usage and not request.stream:
        raise InvalidRequest("include_usage is for streams only.", param="include_usage")
    _check_input(request)
    _check_sampling(request.sampling, request.kind)
    check_combinations(request)


def _check_input(request: InferenceRequest) -> None:
    wanted, other = ("messages", "prompts") if request.kind is RequestKind.CHAT else ("prompts", "messages")
    if not getattr(request, wanted):
        raise InvalidRequest(f"{wanted} must not be empty.", param=wanted)
    if getattr(request, other):
        raise InvalidRequest(f"{other} do not belong to a {request.kind} request.", param=other)
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages[{index}]")
    for index, prompt in enumerate(request.prompts):
        _check_prompt(prompt, f"prompts[{index}]")


def _check_message(message: ChatMessage, where: str) -> None:
    if message.role not in ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(ROLES)}.", param=f"{where}.role")


def _check_prompt(prompt: Prompt, where: str) -> None:
    if not (prompt.text or prompt.token_ids):
        raise InvalidRequest(f"{where} must not be empty.", param=where)
    if prompt.token_ids and max(prompt.token_ids) > MAX_TOKEN:
        raise InvalidRequest(f"{where} has a token id above {MAX_TOKEN}.", param=where)


def _check_sampling(sampling: SamplingParameters, kind: RequestKind) -> None:
    for field, low, high, is_low_allowed in _RANGES:
        value = getattr(sampling, field)
        if value is None:
            continue
        is_above = value >= low if is_low_allowed else value > low
        if not math.isfinite(value) or not is_above or value > high:
            bracket = "[" if is_low_allowed else "("
            raise InvalidRequest(f"{field} must be in {bracket}{low}, {high}].", param=field)
    most_logprobs = MAX_CHAT_LOGPROBS if kind is RequestKind.CHAT else MAX_COMPLETION_LOGPROBS
    if sampling.logprobs is not None and sampling.logprobs > most_logprobs:
        raise InvalidRequest(f"logprobs must be at most {most_logprobs}.", param="logprobs")
    _check_stops(sampling)
    _check_bias(sampling)


def _check_bias(sampling: SamplingParameters) -> None:
    bias = sampling.logit_bias
    is_in_range = all(token <= MAX_TOKEN and abs(value) <= MAX_LOGIT_BIAS for token, value in bias)
    if len(bias) > MAX_BIASED_TOKENS or not is_in_range:
        raise InvalidRequest(
            f"logit_bias has at most {MAX_BIASED_TOKENS} token ids, each from -{MAX_LOGIT_BIAS} to {MAX_LOGIT_BIAS}.",
            param="logit_bias",
        )


def _check_stops(sampling: SamplingParameters) -> None:
    if len(sampling.stop) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop has more than {MAX_STOP_STRINGS} strings.", param="stop")
    if not all(1 <= len(text) <= MAX_STOP_CHARACTERS for text in sampling.stop):
        raise InvalidRequest(f"A stop string has 1 to {MAX_STOP_CHARACTERS} characters.", param="stop")
    token_ids = sampling.stop_token_ids
    if len(token_ids) > MAX_STOP_TOKEN_IDS or any(token > MAX_TOKEN for token in token_ids):
        raise InvalidRequest(
            f"stop_token_ids are at most {MAX_STOP_TOKEN_IDS} ids up to {MAX_TOKEN}.", param="stop_token_ids"
        )
