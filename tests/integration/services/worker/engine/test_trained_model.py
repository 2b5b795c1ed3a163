"""SmolLM2, a trained model: its answers equal to transformers', token by token, in float32."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import LogprobEntry
from tests.engine_driver import Told, drive, make_submit

QUESTIONS = [
    "What is a message queue?",
    "Name three rivers in Europe.",
    "Write a haiku about rain.",
    "What is the capital of Japan?",
    "Explain recursion to a child.",
    "List the planets of the solar system.",
    "Translate 'good morning' to French.",
    "Why is the sky blue?",
    "Give me a recipe for pancakes.",
    "What does an electrician do?",
    "How many legs has a spider?",
    "Summarise the story of Romeo and Juliet.",
    "What is 17 plus 25?",
    "Write a Python function that reverses a string.",
    "Who wrote the Odyssey?",
    "What is photosynthesis?",
    "Describe the taste of an apple.",
    "What are prime numbers?",
    "Tell me a short joke.",
    "How does a turbine work?",
    "What is the boiling point of water?",
    "How do vaccines work?",
    "Write one sentence about the sea.",
    "What is the difference between a list and a tuple in Python?",
    "Name five vegetables.",
    "Who painted the Mona Lisa?",
    "Why do leaves change colour in autumn?",
    "What is the square root of 144?",
    "Translate 'thank you' to Spanish.",
    "How is glass made?",
    "Write a limerick about a cat.",
    "What is gravity?",
    "Suggest a name for a coffee shop.",
    "What is the largest ocean?",
    "How do I boil an egg?",
    "What does HTTP stand for?",
    "Describe a sunset in two sentences.",
    "What is an adjective?",
    "How far away is the Moon?",
    "Give three tips for sleeping well.",
    "What is a database index?",
    "Tell me about the Great Wall of China.",
    "What causes thunder?",
    "Write a polite email asking for a day off.",
    "What is the opposite of 'ancient'?",
    "How many minutes are in a day?",
    "Explain supply and demand.",
    "What do bees make?",
    "Convert 10 kilometres to miles.",
    "What is a haiku?",
]
TIE = 1e-3
"""Logits closer than this are a tie: either token is right, and the texts may part there."""
LOGPROB_TOLERANCE = 1e-4


@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("num_questions", "num_tokens"), [(4, 24), pytest.param(50, 128, marks=pytest.mark.slow)], ids=str
)
def test_answers_and_their_log_probabilities_equal_those_of_transformers(
    smollm2_directory: Path, num_questions: int, num_tokens: int
) -> None:
    from transformers import AutoModelForCausalLM

    assert len(set(QUESTIONS)) == 50
    tokenizer = Tokenizer.from_file(str(smollm2_directory / "tokenizer.json"))
    template = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    prompts = [
        tokenizer.encode(template.format(one), add_special_tokens=False).ids for one in QUESTIONS[:num_questions]
    ]
    engine = Engine.load(EngineConfig(model=smollm2_directory, dtype="float32", num_kv_blocks=640, num_threads=1))
    told = drive(engine, *(make_submit(str(i), p, max_tokens=num_tokens, logprobs=5) for i, p in enumerate(prompts)))
    logprobs = gather_logprobs(told)
    model = AutoModelForCausalLM.from_pretrained(smollm2_directory, dtype=torch.float32).eval()
    for index, prompt in enumerate(prompts):
        tokens = told.tokens[str(index), 0]
        assert len(tokens) == num_tokens
        # One pass over prompt and answer says at every step what transformers would have chosen next.
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        behind = logits.max(dim=1).values - logits[torch.arange(num_tokens), tokens]
        assert float(behind.max()) < TIE, QUESTIONS[index]
        expected = logits.log_softmax(dim=1)
        torch.testing.assert_close(
            torch.tensor([entry.logprob for entry in logprobs[str(index)]]),
            expected[torch.arange(num_tokens), tokens],
            atol=LOGPROB_TOLERANCE,
            rtol=0,
        )
        torch.testing.assert_close(
            torch.tensor([entry.top_logprobs for entry in logprobs[str(index)]]),
            expected.topk(5).values,
            atol=LOGPROB_TOLERANCE,
            rtol=0,
        )


def gather_logprobs(told: Told) -> dict[str, list[LogprobEntry]]:
    gathered: dict[str, list[LogprobEntry]] = {}
    for event in told.events:
        gathered.setdefault(event.request_id, []).extend(event.logprobs or [])
    return gathered
