"""English text that every Python brings: its own language reference. A part of it calibrates, the rest judges.

`pydoc_data.topics` has some eighty articles. Every second of the first fifty is for calibration; all others are held
back, without paragraphs that repeat a line of the first part. The text differs a little between versions of Python: a
digest says which one a figure was measured on.
"""

import hashlib
import pydoc_data.topics
from enum import StrEnum
from pathlib import Path

import torch

from shared.tokenization.tokenizer import Tokenizer

_CALIBRATION_PLACES = range(0, 50, 2)


class Part(StrEnum):
    CALIBRATION = "calibration"
    HELD = "held"


def builtin_text(part: Part) -> str:
    """Articles in the order of their names: 26,000 and 68,000 tokens of SmolLM2's."""
    topics: dict[str, str] = pydoc_data.topics.topics
    names = sorted(topics)
    calibrating = {names[place] for place in _CALIBRATION_PLACES}
    calibration = "\n\n".join(topics[name] for name in names if name in calibrating)
    if part is Part.CALIBRATION:
        return calibration
    known = {line for line in calibration.splitlines() if line.strip()}
    others = (paragraph for name in names if name not in calibrating for paragraph in topics[name].split("\n\n"))
    # A dictionary keeps the order and one of each: articles quote each other.
    return "\n\n".join(dict.fromkeys(text for text in others if known.isdisjoint(text.splitlines())))


def read_text(file: Path | None, part: Part) -> str:
    """The file's, or the built-in one. Raises OSError, ValueError for what is not UTF-8."""
    return builtin_text(part) if file is None else file.read_text(encoding="utf-8")


def windows(tokenizer: Tokenizer, text: str, *, length: int, count: int | None = None) -> torch.Tensor:
    """The text's first tokens as [windows, length]. Raises ValueError when it is too short."""
    token_ids = tokenizer.encode(text)
    whole = len(token_ids) // length
    if whole < (count or 1):
        raise ValueError(f"the text has {len(token_ids)} tokens: too few for {count or 1} times {length}")
    number = whole if count is None else count
    return torch.tensor(token_ids[: number * length]).view(number, length)


def digest(token_ids: torch.Tensor) -> str:
    """Names a text and its cut, 12 hexadecimal digits."""
    described = f"{tuple(token_ids.shape)}".encode() + token_ids.numpy().tobytes()
    return hashlib.blake2b(described, digest_size=6).hexdigest()
