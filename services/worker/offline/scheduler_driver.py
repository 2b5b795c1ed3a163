"""The engine's real scheduler and cache, driven without a model: sequences that know how long they will be.

Knows neither torch nor text; a drawn token is the number 0. What a step costs is its caller's business.
"""

from services.worker.engine.batch import SampledToken, ScheduledBatch
from services.worker.engine.scheduling.scheduler import Scheduler
from services.worker.engine.sequence import RequestProgress, Sequence
from services.worker.offline.chat_load import LoadRequest
from shared.contracts.sampling import SamplingParameters

_OWN_TOKENS_START = 1_000_000
_OWN_TOKENS_STRIDE = 100_000


def sequence_of(request: LoadRequest, number: int) -> Sequence:
    """Its first tokens are the shared prompt's, the others nobody else's."""
    shared_start = request.shared_prompt * _OWN_TOKENS_STRIDE
    own_start = _OWN_TOKENS_START + number * _OWN_TOKENS_STRIDE
    num_own_tokens = request.num_prompt_tokens - request.num_shared_tokens
    prompt = [
        *range(shared_start, shared_start + request.num_shared_tokens),
        *range(own_start, own_start + num_own_tokens),
    ]
    progress = RequestProgress(
        request_id=str(number),
        sampling=SamplingParameters(max_tokens=request.num_output_tokens, ignore_eos=True),
        order=(0, 0, 0, 0),
        cache_salt="",
        ending_token_ids=frozenset(),
        submitted_ns=0,
    )
    sequence = Sequence(
        request=progress,
        choice=0,
        seed=0,
        token_ids=prompt,
        num_prompt_tokens=request.num_prompt_tokens,
        max_output_tokens=request.num_output_tokens,
    )
    progress.sequences[0] = sequence
    return sequence


def run_step(scheduler: Scheduler) -> tuple[ScheduledBatch, list[Sequence]]:
    """One step of the engine without its model: what was in it, and who ended with it."""
    batch = scheduler.schedule()
    sampled = [SampledToken(sequence=sampler, token_id=0) for item in batch.items for sampler in item.samplers]
    scheduler.complete(batch, sampled)
    ended = [token.sequence for token in sampled if token.sequence.finish_reason() is not None]
    for sequence in ended:
        scheduler.finish(sequence)
    return batch, ended
