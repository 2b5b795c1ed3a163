"""What stands where a tokenizer would, for a model that has none: prompts are token ids, and answers have no text.

Tokens come back in `token_ids` when the request says `return_token_ids`. What needs text is refused by its field.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from shared.contracts.errors import InvalidRequest
from shared.contracts.requests import ChatMessage, InferenceRequest, RequestKind
from shared.contracts.tools import Tool
from shared.tokenization.special_tokens import configured_eos_token_ids
from shared.tokenization.tokenizer import read_optional_json


class TokensOnly:
    """The parts of `Tokenizer` that the request path uses. `eos_token_ids` are those of the configuration files."""

    vocabulary_size = 1 << 31
    """No limit of its own: the model's embedding has one."""

    def __init__(self, eos_token_ids: tuple[int, ...]) -> None:
        self.eos_token_ids = eos_token_ids

    @classmethod
    def from_directory(cls, directory: Path) -> "TokensOnly":
        """Raises TokenizerError for a configuration that is not JSON."""
        generation, model = (read_optional_json(directory / f"{name}.json") for name in ("generation_config", "config"))
        return cls(configured_eos_token_ids(generation_config=generation, model_config=model))

    def encode(self, text: str) -> list[int]:
        refuse_text("prediction")

    def encode_prompt(self, text: str) -> list[int]:
        refuse_text("prompt")

    def encode_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> list[int]:
        refuse_text("messages")


def refuse_text(field: str) -> NoReturn:
    raise InvalidRequest(f"{field}: the model has no tokenizer; give prompts of token ids.", param=field)


def check_needs_no_text(request: InferenceRequest) -> None:
    """Raises InvalidRequest with the field that only a tokenizer could serve."""
    if request.kind is RequestKind.CHAT:
        refuse_text("messages")
    if any(prompt.token_ids is None for prompt in request.prompts):
        refuse_text("prompt")
    if request.sampling.stop:
        refuse_text("stop")
    if request.prediction is not None:
        refuse_text("prediction")
    if request.grammar is not None:
        refuse_text(request.grammar.field)


def show_token(token_id: int) -> str:
    """Without a tokenizer a token is shown by its number."""
    return f"token_id:{token_id}"
