"""llama.cpp beside our own engine: quantizes the same model with its own quantizer, then runs it in its own process.

Where an interpreter with `llama-cpp-python` comes from is the caller's to know; this project does not depend on it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from gguf import GGUFReader

from services.worker.offline.gguf_export import write_gguf
from services.worker.offline.quantization_rows import Size

_SCRIPT = Path(__file__).with_name("llama_cpp_process.py")
BF16 = "BF16"


class LlamaCppFailed(ValueError):
    """Its process ended; what it said is in the message."""


def make_file(python: Path, model: Path, kind: str, directory: Path) -> Path:
    """`model` as a GGUF file of `kind` (BF16, Q8_0, Q4_0 ...) in `directory`; made once. Raises LlamaCppFailed."""
    plain = write_gguf(model, directory / f"{model.name}-BF16.gguf")
    target = directory / f"{model.name}-{kind}.gguf"
    if not target.exists():
        part = target.with_suffix(".part")
        command = [str(python), "-P", str(_SCRIPT), "--quantize", str(plain), str(part), kind]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise LlamaCppFailed(f"{python} cannot quantize with llama.cpp: {finished.stderr.strip()[-500:]}")
        part.replace(target)
    return target


def measure_file(file: Path) -> Size:
    tensors = GGUFReader(file).tensors
    inside = [tensor for tensor in tensors if tensor.name.startswith("blk.") and len(tensor.shape) == 2]
    return Size(
        total_bytes=sum(int(tensor.n_bytes) for tensor in tensors),
        bits_per_weight=8 * sum(int(t.n_bytes) for t in inside) / sum(int(t.n_elements) for t in inside),
    )


class LlamaCpp:
    """One loaded file. Close it, or use it in a `with`."""

    def __init__(self, python: Path, file: Path, *, num_threads: int, counts_processor_time: bool = False) -> None:
        self._counts_processor_time = counts_processor_time
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        environment.pop("PYTHONPATH", None)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(python), "-P", str(_SCRIPT), str(file), str(num_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """[T, V] float32 of a text of at most 512 tokens."""
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "logits")
            rows, columns = self._ask({"token_ids": token_ids, "file": str(file)})["shape"]
            return torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float32).view(rows, columns)

    def seconds(self, prompts: list[list[int]], num_tokens: int) -> tuple[float, float]:
        """To read all prompts, and of the `num_tokens` - 1 steps after that."""
        request = {"prompts": prompts, "num_tokens": num_tokens, "counts_processor_time": self._counts_processor_time}
        reply = self._ask(request)
        return reply["prompt_seconds"], reply["decode_seconds"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_read` says why
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise LlamaCppFailed(f"llama.cpp ended: {self._errors.read().strip()[-500:]}")
        reply: dict[str, Any] = json.loads(line)
        return reply
