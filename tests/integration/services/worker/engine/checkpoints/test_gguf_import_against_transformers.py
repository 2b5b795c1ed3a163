"""Our import of SmolLM2's GGUF against transformers' own reading of the same file: weights, tokens, chat prompts."""

import json
import pydoc_data.topics
import re
from pathlib import Path

import pytest
import torch

from services.worker.engine.checkpoints.gguf_import import default_model_gguf
from services.worker.engine.checkpoints.weights import open_checkpoint
from shared.contracts.requests import ChatMessage
from shared.tokenization.tokenizer import Tokenizer

pytestmark = [pytest.mark.model, pytest.mark.slow]

ODD_TEXTS = (
    "",
    " ",
    "\n",
    "\t\tif x:\n\t\t\treturn  y",
    "naïve café – “quoted” … €5",
    "你好,世界。こんにちは 안녕",
    "👩‍👩‍👧‍👦 family \U0001f1e9\U0001f1ea",
    "It's we'll I'd they've YOU'RE",
    "<|im_start|>user\nhi<|im_end|>",
    "x<|endoftext|>y<repo_name>z",
    "1234567890 3.14159 1,000,000 v2.0",
    "a\u00a0b\u2003c\ufeffd",
    "e\u0301 \u0000 \x7f",
)

WHITESPACE_RUN_BEFORE_DIGIT = re.compile(r"\s[\s](?=\d)|[^\S ](?=\d)")


@pytest.fixture(scope="module")
def reference_tokenizer():
    from transformers import AutoTokenizer

    gguf = default_model_gguf()
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


@pytest.fixture(scope="module")
def reference_weights() -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM, GgufConfig

    gguf = default_model_gguf()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def tokenizer(smollm2_directory: Path) -> Tokenizer:
    return Tokenizer.from_directory(smollm2_directory)


def _paragraphs() -> list[str]:
    return [part for text in pydoc_data.topics.topics.values() for part in text.split("\n\n") if part.strip()]


@pytest.mark.timeout(600)
def test_every_imported_weight_is_the_bfloat16_of_transformers_weight(
    smollm2_directory: Path, reference_weights: dict[str, torch.Tensor]
) -> None:
    checkpoint = open_checkpoint(smollm2_directory)
    names = checkpoint.tensor_names()
    assert set(names) == set(reference_weights) - {"lm_head.weight"}
    for name in names:
        assert torch.equal(checkpoint.tensor(name), reference_weights[name].to(torch.bfloat16)), name


@pytest.mark.timeout(600)
def test_the_gguf_file_read_directly_has_the_same_float32_weights(
    reference_weights: dict[str, torch.Tensor],
) -> None:
    checkpoint = open_checkpoint(default_model_gguf())
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.29.self_attn.k_proj.weight"):
        assert torch.equal(checkpoint.tensor(name), reference_weights[name]), name
    embedding = "model.embed_tokens.weight"
    assert torch.equal(checkpoint.tensor(embedding, torch.float32), reference_weights[embedding])


def test_texts_have_the_token_ids_that_transformers_gives(tokenizer: Tokenizer, reference_tokenizer) -> None:
    texts = [text for text in _paragraphs() if not WHITESPACE_RUN_BEFORE_DIGIT.search(text)]
    assert len(texts) > 2000
    for text in (*texts, *ODD_TEXTS):
        assert tokenizer.encode(text) == reference_tokenizer.encode(text, add_special_tokens=False), text
        assert tokenizer.encode_prompt(text) == reference_tokenizer.encode(text), text


def test_a_digit_is_cut_off_before_whitespace_is_grouped_unlike_in_transformers_reading(
    tokenizer: Tokenizer, reference_tokenizer
) -> None:
    """The model was trained with digits split first (pre-tokenizer `smollm`); transformers ignores that name."""
    text = "One:\n\n1. item"
    ours = [tokenizer.token_text(token_id) for token_id in tokenizer.encode(text)]
    assert ours == ["One", ":", "\n\n", "1", ".", " item"]
    theirs = [reference_tokenizer.decode([token_id]) for token_id in reference_tokenizer.encode(text)]
    assert theirs == ["One", ":", "\n", "\n", "1", ".", " item"]


def test_decoded_text_is_transformers_decoded_text(tokenizer: Tokenizer, reference_tokenizer) -> None:
    for text in (*_paragraphs()[:300], *ODD_TEXTS):
        token_ids = tokenizer.encode(text)
        decoded = reference_tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(token_ids) == decoded


@pytest.mark.parametrize(
    "conversation",
    [
        [("user", "What is a message queue?")],
        [("system", "Answer in one word."), ("user", "Capital of France?")],
        [("user", "hi"), ("assistant", "Hello!\n"), ("user", "  spaces  <b>&amp;</b> ")],
    ],
)
def test_chat_prompts_are_those_of_transformers(
    tokenizer: Tokenizer, reference_tokenizer, conversation: list[tuple[str, str]]
) -> None:
    messages = [ChatMessage(role=role, content=content) for role, content in conversation]
    plain = [{"role": role, "content": content} for role, content in conversation]
    expected = reference_tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    assert tokenizer.chat_prompt(messages) == expected
    assert tokenizer.encode_chat(messages) == reference_tokenizer.encode(expected, add_special_tokens=False)


def test_a_chat_ends_with_the_end_of_the_turn(tokenizer: Tokenizer, smollm2_directory: Path) -> None:
    assert [tokenizer.token_text(token_id) for token_id in tokenizer.eos_token_ids] == ["<|im_end|>"]
    generation = json.loads((smollm2_directory / "generation_config.json").read_text())
    assert generation == {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 2}


def test_transformers_opens_the_imported_directory_with_the_same_tokens(
    tokenizer: Tokenizer, smollm2_directory: Path
) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(smollm2_directory)
    assert (config.model_type, config.rope_parameters["rope_theta"]) == ("llama", 100_000.0)
    reopened = AutoTokenizer.from_pretrained(smollm2_directory)
    for text in (*_paragraphs()[:200], *ODD_TEXTS, "One:\n\n1. item"):
        assert reopened.encode(text) == tokenizer.encode(text)
