"""Which tokens mean something to the model's authors: begin, end, padding. Read from the configuration files."""

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer as BackendTokenizer

_SPECIAL_FIELDS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def special_token_texts(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by field; a value may be a string or an object with its `content`."""
    texts = {}
    for field in _SPECIAL_FIELDS:
        value = tokenizer_config.get(field)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            texts[field] = content
    return texts


def eos_token_ids(
    backend: BackendTokenizer,
    *,
    tokenizer_config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    model_config: Mapping[str, Any],
) -> tuple[int, ...]:
    """Every id that ends a text, sorted.

    generation_config.json decides, config.json where it is silent; the tokenizer's own end token is always one of
    them, because chat models are published whose generation_config only knows their base model's.
    """
    found = set(configured_eos_token_ids(generation_config=generation_config, model_config=model_config))
    text = special_token_texts(tokenizer_config).get("eos_token")
    token_id = None if text is None else backend.token_to_id(text)
    return tuple(sorted(found if token_id is None else found | {token_id}))


def configured_eos_token_ids(
    *, generation_config: Mapping[str, Any], model_config: Mapping[str, Any]
) -> tuple[int, ...]:
    """What the configuration says ends a text, sorted; the whole truth for a model without a tokenizer."""
    found = _ids(generation_config.get("eos_token_id")) or _ids(model_config.get("eos_token_id"))
    return tuple(sorted(set(found)))


def _ids(value: Any) -> list[int]:
    return list(_plain_integers(value if isinstance(value, list) else [value]))


def _plain_integers(values: list[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            yield value
