"""Builds Hugging Face's tokenizer.json and its neighbours from the vocabulary inside a GGUF file.

Byte-level BPE only (`tokenizer.ggml.model` = gpt2). How text is cut before merging is not in the file, only the
*name* of the rule (`tokenizer.ggml.pre`); the rules are llama.cpp's (src/llama-vocab.cpp, llm_tokenizer_bpe).
An unknown name is refused: a wrong rule gives plausible, slightly wrong token ids.
"""

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from services.worker.engine.checkpoints.gguf_metadata import GgufMetadata

_CONTROL, _USER_DEFINED = 3, 4

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_PATTERN = _LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _PreTokenizer:
    """`pattern` None is GPT-2's own. `ignore_merges`: a piece that is a token needs no merging."""

    pattern: str | None = None
    splits_digits_first: bool = False
    ignore_merges: bool = False


_PRE_TOKENIZERS = {
    "gpt-2": _PreTokenizer(),
    "smollm": _PreTokenizer(splits_digits_first=True),
    "llama-bpe": _PreTokenizer(pattern=_LLAMA3_PATTERN, ignore_merges=True),
    "qwen2": _PreTokenizer(pattern=_QWEN2_PATTERN),
}


def build_tokenizer(metadata: GgufMetadata) -> Tokenizer:
    if metadata.require("tokenizer.ggml.model") != "gpt2":
        raise metadata.error("tokenizer.ggml.model", "only byte-level BPE (gpt2) is supported")
    name = metadata.require("tokenizer.ggml.pre")
    if not isinstance(name, str) or name not in _PRE_TOKENIZERS:
        raise metadata.error("tokenizer.ggml.pre", f"{name!r} is not one of {', '.join(_PRE_TOKENIZERS)}")
    rule = _PRE_TOKENIZERS[name]
    tokens = metadata.strings("tokenizer.ggml.tokens")
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    merges = _merges(metadata, vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rule.ignore_merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(rule)
    tokenizer.decoder = decoders.ByteLevel()
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        bos_token_id = metadata.token_id("bos", len(tokens))
        if bos_token_id is None:
            raise metadata.error("tokenizer.ggml.bos_token_id", "is missing")
        tokenizer.post_processor = _begin_with(tokens, bos_token_id)
    tokenizer.add_tokens(_added_tokens(metadata, tokens))
    return tokenizer


def _merges(metadata: GgufMetadata, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of tokens whose union is a token: anything else the library would only call an exception."""
    key = "tokenizer.ggml.merges"
    merges = []
    for merge in metadata.strings(key):
        left, _, right = merge.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise metadata.error(key, f"{merge!r} does not make a token of two tokens")
        merges.append((left, right))
    return merges


def _pre_tokenizer(rule: _PreTokenizer) -> pre_tokenizers.PreTokenizer:
    parts: list[pre_tokenizers.PreTokenizer] = []
    if rule.splits_digits_first:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    if rule.pattern is not None:
        parts.append(pre_tokenizers.Split(Regex(rule.pattern), behavior="isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.pattern is None))
    return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)


def _begin_with(tokens: list[str], bos_token_id: int) -> processors.TemplateProcessing:
    bos = tokens[bos_token_id]
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_token_id)]
    )


def _added_tokens(metadata: GgufMetadata, tokens: list[str]) -> list[AddedToken]:
    """Tokens that are matched in text as they stand, before merging; control tokens are special as well."""
    key = "tokenizer.ggml.token_type"
    kinds = metadata.require(key)
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise metadata.error(key, f"must be a list of {len(tokens)} kinds")
    return [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]


def tokenizer_config(metadata: GgufMetadata) -> dict[str, Any]:
    """The content of tokenizer_config.json, chat template included."""
    tokens = metadata.strings("tokenizer.ggml.tokens")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata.positive_integer(metadata.of_model("context_length")),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
    }
    for field, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token_id = metadata.token_id(key, len(tokens))
        if token_id is not None:
            config[f"{field}_token"] = tokens[token_id]
    template = metadata.get("tokenizer.chat_template")
    return config if template is None else {**config, "chat_template": template}


def generation_config(metadata: GgufMetadata) -> dict[str, Any]:
    """The content of generation_config.json: where a text begins and where it ends."""
    end = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")]
    end_ids = [token_id for token_id in dict.fromkeys(end) if token_id is not None]
    config: dict[str, Any] = {"eos_token_id": end_ids[0] if len(end_ids) == 1 else end_ids}
    for field, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token_id is not None:
            config[field] = token_id
    return config
