"""A model's tokenizer: text to token ids and back, chats to prompts, and the ids that end a text.

Over the `tokenizers` package, from the files of a Hugging Face directory. Knows no torch and no transformers: the
gateway uses it too. Immutable after loading; encoding may be called from several threads.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer as BackendTokenizer

from shared.contracts.errors import InvalidRequest
from shared.contracts.requests import ChatMessage
from shared.contracts.tools import Tool
from shared.tokenization.byte_level import byte_table, is_byte_level
from shared.tokenization.chat_template import ChatTemplate
from shared.tokenization.special_tokens import eos_token_ids, special_token_texts
from shared.tokenization.tokenizer_error import TokenizerError, TokenizerMissing

TOKENIZER_FILE = "tokenizer.json"


class Tokenizer:
    """Loaded by `from_directory`.

    `eos_token_ids` end a text. `vocabulary_size` counts added tokens too; a model's embedding may have more rows.
    `bytes_of` holds each token's bytes where the tokenizer is byte-level, else it is None; special tokens have
    none, since they are left out of decoded text.
    """

    def __init__(
        self,
        backend: BackendTokenizer,
        *,
        eos_token_ids: tuple[int, ...],
        chat_template: ChatTemplate | None,
        prefix_token_id: int | None = None,
        bytes_of: list[bytes] | None = None,
    ) -> None:
        self._backend = backend
        self._chat_template = chat_template
        self._prefix_token_id = prefix_token_id
        self.eos_token_ids = eos_token_ids
        self.bytes_of = bytes_of
        self.vocabulary_size: int = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_directory(cls, directory: Path) -> "Tokenizer":
        """Raises TokenizerMissing when there is none, TokenizerError when it cannot be used."""
        file = directory / TOKENIZER_FILE
        if not file.is_file():
            raise TokenizerMissing(file, "the model has no tokenizer")
        try:
            backend = BackendTokenizer.from_file(str(file))
        except Exception as error:
            raise TokenizerError(file, f"not a usable tokenizer: {error}") from error
        backend.no_padding()
        backend.no_truncation()
        config = read_optional_json(directory / "tokenizer_config.json")
        return cls(
            backend,
            eos_token_ids=eos_token_ids(
                backend,
                tokenizer_config=config,
                generation_config=read_optional_json(directory / "generation_config.json"),
                model_config=read_optional_json(directory / "config.json"),
            ),
            chat_template=_read_chat_template(directory, config),
            prefix_token_id=_prefix_token_id(backend, config),
            bytes_of=_bytes_of(backend, read_optional_json(file)),
        )

    @property
    def has_chat_template(self) -> bool:
        return self._chat_template is not None

    def encode(self, text: str) -> list[int]:
        """The text alone: nothing is put before or after it. Special tokens written in it are recognised."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """The text as a completion prompt: with a beginning-of-text token if the model wants one."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=True).ids
        if self._prefix_token_id is not None and ids[:1] != [self._prefix_token_id]:
            return [self._prefix_token_id, *ids]
        return ids

    @property
    def tool_template_source(self) -> str | None:
        """The template that conversations with tools are rendered by."""
        return None if self._chat_template is None else self._chat_template.tool_source

    def chat_prompt(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        if self._chat_template is None:
            raise InvalidRequest("the model has no chat template: use completions", param="messages")
        return self._chat_template.render(messages, tools=tools)

    def encode_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> list[int]:
        """The conversation, up to where the assistant speaks. Raises InvalidRequest if the template refuses."""
        return self.encode(self.chat_prompt(messages, tools))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of all tokens at once, special ones left out."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=True)
        return text

    def has_token(self, text: str, *, is_visible: bool = False) -> bool:
        """One token is this text (and decoding shows it)."""
        token_id: int | None = self._backend.token_to_id(text)
        return token_id is not None and (not is_visible or self.decode([token_id]) == text)

    def token_text(self, token_id: int) -> str:
        """How to show one token: special ones by their name, a part of a character as U+FFFD, unknown as ''."""
        piece: str | None = self._backend.id_to_token(token_id)
        if piece is None:
            return ""
        if self.bytes_of is not None:
            return self.bytes_of[token_id].decode("utf-8", "replace") or piece
        text: str = self._backend.decode([token_id], skip_special_tokens=False)
        return text


def read_optional_json(file: Path) -> dict[str, Any]:
    """An absent file is an empty object."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TokenizerError(file, f"not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(file, "must be a JSON object")
    return content


def _bytes_of(backend: BackendTokenizer, definition: Mapping[str, Any]) -> list[bytes] | None:
    if not is_byte_level(definition):
        return None
    special = {token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special}
    return byte_table(backend.get_vocab(with_added_tokens=True), special)


def _prefix_token_id(backend: BackendTokenizer, config: Mapping[str, Any]) -> int | None:
    """`add_bos_token` counts where tokenizer.json's own post-processor does not already say it."""
    bos = special_token_texts(config).get("bos_token")
    if not config.get("add_bos_token") or bos is None:
        return None
    token_id: int | None = backend.token_to_id(bos)
    return token_id


def _read_chat_template(directory: Path, config: Mapping[str, Any]) -> ChatTemplate | None:
    """A file of its own (newer) or a field of tokenizer_config.json, which may be a list of named ones."""
    file = directory / "chat_template.jinja"
    additional = directory / "additional_chat_templates" / "tool_use.jinja"
    tool_source = additional.read_text(encoding="utf-8") if additional.is_file() else None
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source, tool_source = named.get("default"), named.get("tool_use")
    if source is None:
        return None
    where = file if file.is_file() else directory / "tokenizer_config.json"
    if not isinstance(source, str) or not isinstance(tool_source, str | None):
        raise TokenizerError(where, "chat_template must be a string")
    try:
        return ChatTemplate(source, tool_source=tool_source, special_tokens=special_token_texts(config))
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(where, f"chat_template: line {error.lineno}: {error.message}") from error
