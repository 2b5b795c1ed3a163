"""The whole engine on its Triton kernels, decode steps replayed by size: the same tokens as the reference backend.

In Triton's interpreter on a CPU, on the card where there is one.
"""

from pathlib import Path

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit
from tests.fakes.graph_capture import RunAgain

PROMPT = list(range(20, 32))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(
        tmp_path_factory.mktemp("checkpoint"), hidden_size=32, num_layers=1, num_query_heads=2, num_kv_heads=1
    )


def load(checkpoint: Path, backend: str) -> Engine:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Engine.load(
        EngineConfig(
            model=checkpoint,
            num_kv_blocks=32,
            max_tokens_per_step=24,
            max_running_sequences=4,
            attention_backend=backend,
            device=device,
        )
    )


def answers(engine: Engine) -> Told:
    return drive(
        engine,
        make_submit("greedy", PROMPT, max_tokens=4),
        make_submit("two", PROMPT[:5], n=2, max_tokens=3, temperature=1.0, seed=7),
        make_submit("long", PROMPT[3:] + PROMPT, max_tokens=4, temperature=0.8, top_p=0.9, seed=3, logprobs=2),
    )


def test_it_answers_like_the_reference_with_recorded_decode_steps_and_without(checkpoint: Path) -> None:
    expected = answers(load(checkpoint, "reference"))
    engine = load(checkpoint, "triton")
    assert engine.ready.attention_backend == "triton"
    assert engine._runner._decoder._operators.name == "triton"
    assert answers(engine).tokens == expected.tokens
    capture = RunAgain()
    assert engine._runner.record_decode_graphs(capture, max_rows=4, max_tokens=512) == [1, 2, 4]
    assert answers(engine).tokens == expected.tokens
    assert capture.num_replays >= 2
