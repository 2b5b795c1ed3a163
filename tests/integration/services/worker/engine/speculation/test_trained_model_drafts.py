"""SmolLM2 answers the same with drafts as without, greedy and sampled, in float32 and in bfloat16.

In bfloat16, too: a token that is verified is computed as the row of a decode step, so not a bit of it differs.
"""

from pathlib import Path

import pytest

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from shared.tokenization.tokenizer import Tokenizer
from tests.engine_driver import Told, drive, make_submit
from tests.integration.services.worker.engine.test_trained_model import QUESTIONS

pytestmark = pytest.mark.model
PREFIXES = ("", "Answer, then repeat your answer: ")


def answers(directory: Path, questions: list[str], *, dtype: str, speculation: str) -> Told:
    """Each question greedy and at temperature 0.8, all in one batch."""
    tokenizer = Tokenizer.from_directory(directory)
    engine = Engine.load(
        EngineConfig(
            model=directory,
            dtype=dtype,
            num_kv_blocks=2048,
            speculation=speculation,
            fixed_draft_tokens=True,
            max_draft_tokens=4,
        )
    )
    submissions = [
        make_submit(
            f"{question} at {temperature}",
            tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"),
            temperature=temperature,
            seed=number,
            max_tokens=40,
        )
        for number, question in enumerate(questions)
        for temperature in (0.0, 0.8)
    ]
    return drive(engine, *submissions)


def check(directory: Path, questions: list[str], dtype: str, method: str = "prompt-lookup") -> None:
    plain = answers(directory, questions, dtype=dtype, speculation="none")
    drafted = answers(directory, questions, dtype=dtype, speculation=method)
    assert drafted.tokens == plain.tokens
    accepted = sum(statistics.num_accepted for statistics in drafted.statistics)
    rejected = sum(statistics.num_drafted for statistics in drafted.statistics) - accepted
    assert accepted > 0
    assert rejected > 0


def test_three_questions(smollm2_directory: Path) -> None:
    check(smollm2_directory, ["Repeat three times: the quick brown fox.", *QUESTIONS[1:3]], "bfloat16")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("dtype", "method"),
    [
        ("float32", "prompt-lookup"),
        ("bfloat16", "prompt-lookup"),
        ("bfloat16", "lookahead"),
        ("float32", "quantspec"),
        ("bfloat16", "quantspec"),
    ],
)
def test_a_hundred_questions(smollm2_directory: Path, dtype: str, method: str) -> None:
    check(smollm2_directory, [prefix + question for prefix in PREFIXES for question in QUESTIONS], dtype, method)
