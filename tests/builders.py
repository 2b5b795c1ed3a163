"""Small real things for tests: random-weight checkpoints with a tokenizer and a chat template of their own.

Weights are scaled so that logits differ clearly: greedy choices then do not hang on rounding.
"""

from __future__ import annotations

import json
from pathlib import Path

CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }} Answer <tool_call>...</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = (
    "A penstock is a gated pipe that brings water to a turbine at the pressure it can take.",
    "Events flow through topics; workers consume them, keep their state, and answer.",
    "naïve café, Straße, 東京, emoji 🙂 and numbers 0123456789 make tokenizers honest.",
)


def tiny_checkpoint(
    directory: Path,
    *,
    seed: int = 0,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_query_heads: int = 4,
    num_kv_heads: int = 2,
    max_position_embeddings: int = 512,
    initializer_range: float = 0.4,
) -> Path:
    """A random Llama in float32 with a byte-level BPE tokenizer, as a Hugging Face directory. About a second.

    A small `initializer_range` keeps rounding small: a large one has every layer magnify it.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary_size = write_tokenizer(directory)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_query_heads,
            num_key_value_heads=num_kv_heads,
            max_position_embeddings=max_position_embeddings,
            initializer_range=initializer_range,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=2,
        )
    ).to(torch.float32)
    model.save_pretrained(directory, safe_serialization=True)
    return directory


def write_tokenizer(directory: Path) -> int:
    """A byte-level BPE of some 400 tokens; returns its vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": CHAT_TEMPLATE, "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"})
    )
    return int(tokenizer.get_vocab_size())
