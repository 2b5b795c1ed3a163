"""What a caller asks of the sampler. Values only: ranges are checked where they come in, use is the engine's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """One request's sampling settings; the defaults are OpenAI's.

    `temperature` 0 means greedy. `top_k` 0 and `min_p` 0 mean off. `seed` is always set before the engine sees
    it (from the request, else derived from the request's id). `max_tokens` None means up to the context's end.
    `logprobs` None means none, 0 the chosen token's only, k the k best beside it. `logit_bias` is added to the
    logits of single tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
