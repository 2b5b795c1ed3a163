"""What a caller wants the output to be: a grammar as data. What it allows is the engine's to know."""

from dataclasses import dataclass
from enum import StrEnum


class GrammarKind(StrEnum):
    """What `Grammar.text` is written in."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    """Any JSON object; the text is empty."""
    REGEX = "regex"
    CHOICE = "choice"
    """A JSON list of strings, one of which is the output."""
    LARK = "lark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """`field` is what the caller called it, for refusals that name it."""

    kind: GrammarKind
    text: str = ""
    field: str = "grammar"
