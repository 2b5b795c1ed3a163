"""One engine behind three calls, in a process and an environment of its own: `python engines.py NAME MODEL THREADS`.

Reads one JSON object a line and answers one: {"batch_size", ...} -> {"first_seconds", "last_seconds"} (when every
sequence had its first token, when all had their last), {"arrivals"} -> {"token_seconds"},
{"questions"} -> {"answers": [[token ids, seconds of each], ...]}.
Imports nothing of this project but the engine itself, which only `penstock` needs: peers have other environments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from typing import Any, ClassVar, Protocol

Prompts = list[list[int]]
MAX_TOKENS = 4352
MOST_SEQUENCES = 32
CACHE_TOKENS = 40_000


class Peer(Protocol):
    def generate(self, prompts: Prompts, num_tokens: int) -> list[float]:
        """When each step's tokens were there, from the first that every sequence had; `perf_counter`'s seconds."""
        ...


def draw_prompts(count: int, length: int, vocabulary_size: int, seed: int = 0) -> Prompts:
    """The same token ids in every engine's process."""
    draw = random.Random(seed)
    return [[draw.randrange(100, vocabulary_size) for _ in range(length)] for _ in range(count)]


class Penstock:
    settings = "native kernels, prefix cache off, max_tokens_per_step 2048"
    speculation = "none"

    def __init__(self, model: str, threads: int) -> None:
        from pathlib import Path

        from services.worker.engine.config import EngineConfig
        from services.worker.engine.engine import Engine

        self.engine = Engine.load(
            EngineConfig(
                model=Path(model),
                num_threads=threads,
                num_kv_blocks=CACHE_TOKENS // 16,
                max_model_tokens=None,
                max_tokens_per_step=2048,
                max_running_sequences=MOST_SEQUENCES,
                enable_prefix_cache=False,
                speculation=self.speculation,
            )
        )

    def _submit(self, name: str, prompt: list[int], num_tokens: int, ends: list[int] | None = None) -> None:
        from services.worker.engine.events import ChoiceStart, Submit
        from shared.contracts.sampling import SamplingParameters

        sampling = SamplingParameters(temperature=0.0, max_tokens=num_tokens, ignore_eos=ends is None)
        start = ChoiceStart(index=0, prompt_token_ids=prompt)
        self.engine.submit(Submit(request_id=name, choices=[start], sampling=sampling, eos_token_ids=ends or []))

    def generate(self, prompts: Prompts, num_tokens: int) -> list[float]:
        for index, prompt in enumerate(prompts):
            self._submit(str(index), prompt, num_tokens)
        waiting, times = set(map(str, range(len(prompts)))), []
        while self.engine.has_work:
            result = self.engine.step()
            if result.rejected:
                raise ValueError(result.rejected[0].message)
            waiting -= {event.request_id for event in result.tokens}
            if not waiting:
                times.append(time.perf_counter())
        return times

    def mixed(self, arrivals: list[dict[str, Any]], prompts: Prompts) -> list[list[float]]:
        times: list[list[float]] = [[] for _ in arrivals]
        started, following = time.perf_counter(), 0
        while following < len(arrivals) or self.engine.has_work:
            now = time.perf_counter() - started
            while following < len(arrivals) and arrivals[following]["seconds"] <= now:
                self._submit(str(following), prompts[following], arrivals[following]["output_tokens"])
                following += 1
            if not self.engine.has_work:
                time.sleep(max(0.0, arrivals[following]["seconds"] - now))
                continue
            result = self.engine.step()
            now = time.perf_counter() - started
            for event in result.tokens:
                times[int(event.request_id)].extend([now] * len(event.token_ids))
        return times

    def one_by_one(self, questions: Prompts, num_tokens: int, ends: list[int]) -> list[tuple[list[int], list[float]]]:
        answers = []
        for prompt in questions:
            self._submit("question", prompt, num_tokens, ends)
            token_ids: list[int] = []
            times: list[float] = []
            while self.engine.has_work:
                for event in self.engine.step().tokens:
                    token_ids += event.token_ids
                    times += [time.perf_counter()] * len(event.token_ids)
            answers.append((token_ids, times))
        return answers


class PenstockLookup(Penstock):
    settings = f"{Penstock.settings}, speculation=prompt-lookup"
    speculation = "prompt-lookup"


class Vllm:
    """AsyncLLM for both: what `vllm serve` runs on."""

    speculative_config: ClassVar[dict[str, Any] | None] = None
    settings = "AsyncLLM, bfloat16, prefix caching off, VLLM_CPU_KVCACHE_SPACE=2, compiled (its default)"

    def __init__(self, model: str, threads: int) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{threads - 1}")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        arguments = AsyncEngineArgs(
            model=model,
            dtype="bfloat16",
            skip_tokenizer_init=True,
            max_model_len=MAX_TOKENS,
            max_num_seqs=MOST_SEQUENCES,
            max_num_batched_tokens=max(2048, MAX_TOKENS),
            enable_prefix_caching=False,
            speculative_config=self.speculative_config,
        )

        async def build() -> Any:
            return AsyncLLM.from_engine_args(arguments)

        self.engine = self.loop.run_until_complete(build())

    async def _one(self, name: str, prompt: list[int], num_tokens: int, started: float) -> list[float]:
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True, detokenize=False)
        times: list[float] = []
        async for output in self.engine.generate({"prompt_token_ids": prompt}, parameters, name):
            new = len(output.outputs[0].token_ids) - len(times)
            times.extend([time.perf_counter() - started] * new)
        return times

    def generate(self, prompts: Prompts, num_tokens: int) -> list[float]:
        started = time.perf_counter()

        async def everything() -> list[list[float]]:
            tasks = [self._one(f"{started}-{i}", prompt, num_tokens, started) for i, prompt in enumerate(prompts)]
            return list(await asyncio.gather(*tasks))

        found = self.loop.run_until_complete(everything())
        return [started + max(times) for times in zip(*found, strict=True)]

    def mixed(self, arrivals: list[dict[str, Any]], prompts: Prompts) -> list[list[float]]:
        started = time.perf_counter()

        async def later(index: int) -> list[float]:
            await asyncio.sleep(max(0.0, arrivals[index]["seconds"] - (time.perf_counter() - started)))
            return await self._one(f"{started}-{index}", prompts[index], arrivals[index]["output_tokens"], started)

        async def everything() -> list[list[float]]:
            return list(await asyncio.gather(*[later(index) for index in range(len(arrivals))]))

        return self.loop.run_until_complete(everything())

    def one_by_one(self, questions: Prompts, num_tokens: int, ends: list[int]) -> list[tuple[list[int], list[float]]]:
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=num_tokens, stop_token_ids=ends, detokenize=False)

        async def one(prompt: list[int]) -> tuple[list[int], list[float]]:
            token_ids: list[int] = []
            times: list[float] = []
            name = f"question-{time.perf_counter()}"
            async for output in self.engine.generate({"prompt_token_ids": prompt}, parameters, name):
                token_ids = list(output.outputs[0].token_ids)
                times += [time.perf_counter()] * (len(token_ids) - len(times))
            return token_ids, times

        return [self.loop.run_until_complete(one(prompt)) for prompt in questions]


class VllmNgram(Vllm):
    """Its settings for the lookup of 2 to 4 tokens; 4 drafted, as ours at most when nothing else is set."""

    speculative_config: ClassVar[dict[str, Any] | None] = {
        "method": "ngram",
        "num_speculative_tokens": 4,
        "prompt_lookup_max": 4,
        "prompt_lookup_min": 2,
    }
    settings = f"{Vllm.settings}, {speculative_config}"


class Transformers:
    settings = "generate, bfloat16, sdpa attention, greedy, dynamic cache"

    def __init__(self, model: str, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()

    def generate(self, prompts: Prompts, num_tokens: int) -> list[float]:
        import torch

        times: list[float] = []

        def look(token_ids: Any, scores: Any) -> Any:
            times.append(time.perf_counter())
            return scores

        with torch.inference_mode():
            ids = torch.tensor(prompts)
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                pad_token_id=0,
                logits_processor=[look],
            )
        return times


class LlamaCpp:
    """One sequence: its batch API is C's, and what is compared is batch 1 and a prompt."""

    settings = "bf16 GGUF, built with GGML_NATIVE, n_batch = n_ubatch = 512, flash attention on"

    def __init__(self, model: str, threads: int) -> None:
        from llama_cpp import Llama

        self.model = Llama(
            model_path=f"{model}/model-bf16.gguf",
            n_ctx=MAX_TOKENS,
            n_threads=threads,
            n_threads_batch=threads,
            n_batch=512,
            n_ubatch=512,
            flash_attn=True,
            logits_all=False,
            verbose=False,
        )

    def generate(self, prompts: Prompts, num_tokens: int) -> list[float]:
        if len(prompts) > 1:
            raise NotImplementedError("measured with one sequence")
        import numpy as np

        self.model.reset()
        tokens, times = prompts[0], []
        for _ in range(num_tokens):
            self.model.eval(tokens)
            logits = np.ctypeslib.as_array(self.model._ctx.get_logits_ith(-1), shape=(self.model.n_vocab(),))
            tokens = [int(logits.argmax())]
            times.append(time.perf_counter())
        return times


ENGINES = {
    "penstock": Penstock,
    "penstock prompt-lookup": PenstockLookup,
    "vllm": Vllm,
    "vllm n-gram": VllmNgram,
    "transformers": Transformers,
    "llama.cpp": LlamaCpp,
}


def answer(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    if "questions" in request:
        return {"answers": engine.one_by_one(request["questions"], request["output_tokens"], request["ends"])}
    vocabulary_size = request["vocabulary_size"]
    if "arrivals" in request:
        arrivals = request["arrivals"]
        prompts = [
            draw_prompts(1, arrival["prompt_tokens"], vocabulary_size, seed=index)[0]
            for index, arrival in enumerate(arrivals)
        ]
        return {"token_seconds": engine.mixed(arrivals, prompts)}
    prompts = draw_prompts(request["batch_size"], request["prompt_tokens"], vocabulary_size, seed=request["seed"])
    started = time.perf_counter()
    times = engine.generate(prompts, request["output_tokens"])
    return {"first_seconds": times[0] - started, "last_seconds": times[-1] - started}


def main() -> None:
    name, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # Libraries print; answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = ENGINES[name](model, threads)
    engine.generate(draw_prompts(1, 8, 1000), 1)
    answers.write(json.dumps({"ready": True, "settings": engine.settings}) + "\n")
    for line in sys.stdin:
        try:
            reply = answer(engine, json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")
    os._exit(0)


if __name__ == "__main__":
    main()
