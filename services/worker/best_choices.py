"""`best_of`: which of a request's choices are answered with. Pure; all of them were generated, logged and counted."""

from collections.abc import Sequence
from dataclasses import replace

from shared.contracts.events import ChoiceResult
from shared.contracts.requests import InferenceRequest
from shared.contracts.sampling import SamplingParameters


def wants_logprobs(request: InferenceRequest) -> bool:
    """Whether choices need log-probabilities: asked for, or to be ranked by."""
    return request.sampling.logprobs is not None or request.keeps_the_best


def ranked_sampling(request: InferenceRequest) -> SamplingParameters:
    """The request's sampling, with at least what ranking needs."""
    sampling = request.sampling
    return replace(sampling, logprobs=sampling.logprobs or 0) if wants_logprobs(request) else sampling


def best_choices(choices: Sequence[ChoiceResult], request: InferenceRequest) -> tuple[ChoiceResult, ...]:
    """Of each prompt's choices the n with the highest mean log-probability, the best first, numbered anew.

    The mean is over a choice's own tokens, so that a long choice is not worse for being long (OpenAI: "the highest
    log probability per token"). Of equals the earlier one; a choice without a token comes last.
    """
    if not request.keeps_the_best:
        return tuple(choices)
    size, n = request.choices_per_prompt, request.sampling.n
    kept = [
        choice
        for start in range(0, len(choices), size)
        for choice in sorted(choices[start : start + size], key=mean_logprob, reverse=True)[:n]
    ]
    return tuple(
        replace(choice, index=index, logprobs=None if request.sampling.logprobs is None else choice.logprobs)
        for index, choice in enumerate(kept)
    )


def mean_logprob(choice: ChoiceResult) -> float:
    """Natural log-probability per token; minus infinity without tokens."""
    logprobs = [token.logprob for token in choice.logprobs or () if token.logprob is not None]
    return sum(logprobs) / len(logprobs) if logprobs else float("-inf")
