"""llama.cpp behind three calls, in an interpreter of its own that has `llama-cpp-python`: `llama_cpp.py` talks to it.

`python llama_cpp_process.py MODEL.gguf THREADS` reads one JSON object a line and answers one;
`python llama_cpp_process.py --quantize SOURCE TARGET Q4_0` writes another file. Imports nothing of this project.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

MOST_SEQUENCES = 32
MOST_TOKENS = 8192
_BATCH_TOKENS = 512


def quantize(source: str, target: str, kind: str) -> None:
    """With llama.cpp's own choice of types for embedding and head."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    if code != 0:
        raise SystemExit(f"llama.cpp cannot quantize {source} to {kind}: {code}")


class Model:
    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = MOST_TOKENS
        parameters.n_batch = parameters.n_ubatch = _BATCH_TOKENS
        parameters.n_seq_max = MOST_SEQUENCES
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = True
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise SystemExit("llama.cpp has no context of this size")
        self._vocabulary_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)

    def logits(self, token_ids: list[int], file: str) -> dict[str, Any]:
        """Of every position of one text of at most 512 tokens, float32, into `file`."""
        import numpy as np

        self._forget()
        self._decode([(token, position, 0, True) for position, token in enumerate(token_ids)])
        address = self._library.llama_get_logits(self._context)
        found = np.ctypeslib.as_array(address, shape=(len(token_ids), self._vocabulary_size))
        found.tofile(file)
        return {"shape": list(found.shape)}

    def generate(self, prompts: list[list[int]], num_tokens: int, counts_processor_time: bool) -> dict[str, Any]:
        """Seconds until every prompt is read, and of `num_tokens` - 1 steps of all sequences after that.

        What comes next is given instead of chosen: nobody's sampling is part of the figures.
        """
        self._forget()
        now = time.process_time if counts_processor_time else time.perf_counter
        started = now()
        tokens = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for begin in range(0, len(tokens), _BATCH_TOKENS):
            self._decode(tokens[begin : begin + _BATCH_TOKENS])
        self._wait()
        read = now()
        for step in range(num_tokens - 1):
            self._decode(
                [(prompt[step % len(prompt)], len(prompt) + step, s, True) for s, prompt in enumerate(prompts)]
            )
            self._wait()
        return {"prompt_seconds": read - started, "decode_seconds": now() - read}

    def _forget(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def _wait(self) -> None:
        self._library.llama_get_logits_ith(self._context, -1)

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (token, position, sequence, is_wanted) in enumerate(tokens):
            batch.token[place] = token
            batch.pos[place] = position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = sequence
            batch.logits[place] = is_wanted
        if (code := self._library.llama_decode(self._context, batch)) != 0:
            raise SystemExit(f"llama.cpp cannot decode {len(tokens)} tokens: {code}")


def main() -> None:
    # Libraries print; answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if sys.argv[1] == "--quantize":
        quantize(*sys.argv[2:5])
        return
    model = Model(sys.argv[1], int(sys.argv[2]))
    answers.write("{}\n")
    for line in sys.stdin:
        request = json.loads(line)
        reply = model.logits(**request) if "file" in request else model.generate(**request)
        answers.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
