"""Answers a file of requests with the engine and nothing else: no Kafka, no Redis, no HTTP.

`python -P -m services.worker.offline.run_batch --model DIR -i requests.jsonl -o answers.jsonl`
Both files are OpenAI's Batch format. The output appears when it is complete.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.offline.batch_run import BatchRun, ServedModel
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    num_lines: int
    num_failed: int
    load_seconds: float
    run_seconds: float


def run_batch(
    model: Path,
    input: Path,  # noqa: A002  the file format's own word
    output: Path,
    dtype: str = "auto",
    *,
    device: str = "auto",
    served_model_name: str | None = None,
    max_model_tokens: int | None = None,
    num_threads: int | None = None,
    quantization: str = "none",
    kv_cache: str = "16bit",
    kv_cache_bytes: int | None = None,
) -> BatchSummary:
    """Answer every line of `input` with one line of `output`, in the same order.

    `served_model_name` None: every line is answered whatever model it names, and answers tell the directory's name.
    Bad lines are answered with their error; only what concerns the whole run raises (CheckpointError, OSError).
    """
    started = time.monotonic()
    config = EngineConfig(
        model=model,
        dtype=dtype,
        device=device,
        max_model_tokens=max_model_tokens,
        num_threads=num_threads,
        quantization=quantization,
        kv_cache_bytes=kv_cache_bytes,
    )
    with input.open("rb") as lines:
        tokenizer = load_tokenizer(model)
        engine = Engine.load(config)
        loaded = time.monotonic()
        run = BatchRun(
            engine,
            ServedModel(
                name=served_model_name or model.resolve().name,
                accepted_name=served_model_name,
                tokenizer=tokenizer,
                eos_token_ids=_eos_token_ids(model, tokenizer),
            ),
            created_seconds=int(time.time()),
            max_open_choices=2 * engine.ready.max_running_sequences,
        )
        num_lines = _write_whole(output, run, lines)
    return BatchSummary(
        num_lines=num_lines,
        num_failed=run.num_failed,
        load_seconds=loaded - started,
        run_seconds=time.monotonic() - loaded,
    )


def load_tokenizer(model: Path) -> Tokenizer | None:
    """None for a model without one: it answers prompts of token ids."""
    try:
        return Tokenizer.from_directory(model)
    except TokenizerMissing:
        return None


def _eos_token_ids(model: Path, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    return open_checkpoint(model).config.eos_token_ids if tokenizer is None else tokenizer.eos_token_ids


def _write_whole(output: Path, run: BatchRun, lines: Iterable[bytes]) -> int:
    """Write beside the output and rename: a run that dies leaves no half file that looks like a whole one."""
    output.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    unfinished = Path(name)
    num_lines = 0
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for answer in run.answers(lines):
                num_lines += 1
                stream.write(answer)
        unfinished.chmod(0o644)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return num_lines


def _command(
    model: Annotated[Path, typer.Option(help="Directory of a Hugging Face checkpoint.")],
    input: Annotated[Path, typer.Option("--input", "-i", help="Requests, one JSON object a line.")],  # noqa: A002
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the answers go.")],
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    served_model_name: Annotated[str | None, typer.Option(help="Refuse lines that name another model.")] = None,
    max_model_tokens: Annotated[int | None, typer.Option(help="Prompt and answer together.")] = None,
    num_threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    quantization: Annotated[str, typer.Option(help="none, keep, or rtn-int8, rtn-int4-g64-a8 ...")] = "none",
    kv_cache: Annotated[str, typer.Option(help="16bit, int8, fp8, int4, or int4*10,int8*10,16bit")] = "16bit",
) -> None:
    """Answer a file of requests in OpenAI's Batch format. Exit code 1 when a line was answered with an error."""
    console = Console(stderr=True)
    try:
        summary = run_batch(
            model,
            input,
            output,
            dtype,
            device=device,
            served_model_name=served_model_name,
            max_model_tokens=max_model_tokens,
            num_threads=num_threads,
            quantization=quantization,
            kv_cache=kv_cache,
        )
    except (ValueError, OSError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(
        f"{summary.num_lines} lines, {summary.num_failed} answered with an error, in {summary.run_seconds:.1f} s "
        f"after {summary.load_seconds:.1f} s of loading: {output}",
        markup=False,
        soft_wrap=True,
    )


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
