"""SmolLM2, a trained model: greedy text equal to transformers', in float32."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from tests.engine_driver import drive, make_submit

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
]
NUM_TOKENS = 64
TIE = 1e-3
"""Logits closer than this are a tie: either token is right, and the texts may part there."""


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_greedy_tokens_equal_those_of_transformers(smollm2_directory: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer.from_file(str(smollm2_directory / "tokenizer.json"))
    template = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    prompts = [tokenizer.encode(template.format(one), add_special_tokens=False).ids for one in QUESTIONS]
    engine = Engine.load(EngineConfig(model=smollm2_directory, dtype="float32", num_kv_blocks=256, num_threads=1))
    told = drive(engine, *(make_submit(str(i), p, max_tokens=NUM_TOKENS) for i, p in enumerate(prompts)))
    model = AutoModelForCausalLM.from_pretrained(smollm2_directory, dtype=torch.float32).eval()
    for index, prompt in enumerate(prompts):
        tokens = told.tokens[str(index), 0]
        assert len(tokens) == NUM_TOKENS
        # One pass over prompt and answer says at every step what transformers would have chosen next.
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        behind = logits.max(dim=1).values - logits[torch.arange(NUM_TOKENS), tokens]
        assert float(behind.max()) < TIE, QUESTIONS[index]
