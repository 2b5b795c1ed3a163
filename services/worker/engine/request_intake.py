"""The engine's door: what a submission must be, and the sequences it becomes. No torch, no blocks."""

from services.worker.engine.events import LogprobEntry, RequestRejected, Submit
from services.worker.engine.sequence import RequestProgress, Sequence
from shared.contracts.errors import EngineSaturated, InvalidRequest, PromptTooLong


def check_submission(
    submit: Submit,
    *,
    vocabulary_size: int,
    max_model_tokens: int,
    is_known: bool,
    num_places: int,
    speculation_methods: list[str],
) -> RequestRejected | None:
    """Why it cannot run, or None. The first reason found, named."""
    if is_known:
        return _reject(submit, InvalidRequest.code, "the engine runs a request of this id already", "request_id")
    if not submit.choices:
        return _reject(submit, InvalidRequest.code, "a request needs at least one choice", "n")
    if len({choice.index for choice in submit.choices}) < len(submit.choices):
        return _reject(submit, InvalidRequest.code, "two choices have the same index", "n")
    if len(submit.choices) > num_places:
        return _reject(submit, EngineSaturated.code, "the engine's queue is full", None)
    for choice in submit.choices:
        if not choice.prompt_token_ids:
            return _reject(submit, InvalidRequest.code, "the prompt is empty", "prompt")
        token_ids = choice.prompt_token_ids + choice.output_token_ids
        if min(token_ids) < 0 or max(token_ids) >= vocabulary_size:
            message = f"token ids must be from 0 to {vocabulary_size - 1}"
            return _reject(submit, InvalidRequest.code, message, "prompt")
        asked = 1 if submit.sampling.max_tokens is None else submit.sampling.max_tokens
        wanted = len(choice.prompt_token_ids) + max(asked, len(choice.output_token_ids))
        if wanted > max_model_tokens:
            message = f"prompt and output need {wanted} tokens, the context has {max_model_tokens}"
            return _reject(submit, PromptTooLong.code, message, "messages")
    if any(not 0 <= token_id < vocabulary_size for token_id in submit.sampling.stop_token_ids):
        message = f"token ids must be from 0 to {vocabulary_size - 1}"
        return _reject(submit, InvalidRequest.code, message, "stop_token_ids")
    if any(not 0 <= token_id < vocabulary_size for token_id, _ in submit.sampling.logit_bias):
        message = f"token ids must be from 0 to {vocabulary_size - 1}"
        return _reject(submit, InvalidRequest.code, message, "logit_bias")
    if submit.speculation is not None and submit.speculation not in speculation_methods:
        message = f"this engine has no such method; it has {', '.join(speculation_methods)}"
        return _reject(submit, InvalidRequest.code, message, "speculation")
    if any(not 0 <= token_id < vocabulary_size for token_id in submit.predicted_token_ids):
        message = f"token ids must be from 0 to {vocabulary_size - 1}"
        return _reject(submit, InvalidRequest.code, message, "prediction")
    return None


def _reject(submit: Submit, code: str, message: str, param: str | None) -> RequestRejected:
    return RequestRejected(request_id=submit.request_id, code=code, message=message, param=param)


def open_request(submit: Submit, *, vocabulary_size: int, max_model_tokens: int, submitted_ns: int) -> RequestProgress:
    """A submission that was checked becomes sequences, each with the output that it already has."""
    sampling = submit.sampling
    ending = set(sampling.stop_token_ids)
    if not sampling.ignore_eos:
        # A tokenizer may name an end token that the model has no logit for: it can never be drawn.
        ending.update(token_id for token_id in submit.eos_token_ids if 0 <= token_id < vocabulary_size)
    request = RequestProgress(
        request_id=submit.request_id,
        sampling=sampling,
        order=submit.order,
        cache_salt=submit.cache_salt,
        ending_token_ids=frozenset(ending),
        submitted_ns=submitted_ns,
        predicted_token_ids=submit.predicted_token_ids,
    )
    scored: dict[tuple[int, ...], list[LogprobEntry | None]] = {}
    for choice in submit.choices:
        prompt = tuple(choice.prompt_token_ids) if submit.prompt_logprobs else ()
        room = max_model_tokens - len(choice.prompt_token_ids)
        request.sequences[choice.index] = Sequence(
            request=request,
            choice=choice.index,
            seed=choice.seed,
            token_ids=choice.prompt_token_ids + choice.output_token_ids,
            num_prompt_tokens=len(choice.prompt_token_ids),
            max_output_tokens=room if sampling.max_tokens is None else sampling.max_tokens,
            prompt_logprobs=scored.setdefault(prompt, [None] * (len(prompt) - 1)) if prompt else None,
        )
    return request
