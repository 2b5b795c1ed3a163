"""Typed access to a parsed config.json: every value is checked, every complaint names file and field."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError


class ConfigFields:
    """A JSON object with manners. null counts as absent, as it does for Hugging Face."""

    def __init__(self, raw: Mapping[str, Any], source: Path, *, prefix: str = "") -> None:
        self.raw = raw
        self.source = source
        self._prefix = prefix

    def error(self, field: str, problem: str) -> CheckpointError:
        return CheckpointError(self.source, problem, subject=self._prefix + field)

    def positive_integer(self, field: str, *, default: int | None = None) -> int:
        value = self._value(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.error(field, f"must be a positive integer, not {value!r}")
        return value

    def natural(self, field: str, *, default: int) -> int:
        value = self._value(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(field, f"must be a natural number, not {value!r}")
        return value

    def positive_number(self, field: str, *, default: float | None = None) -> float:
        value = self._value(field, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self.error(field, f"must be a positive number, not {value!r}")
        return float(value)

    def positive_numbers(self, field: str) -> tuple[float, ...]:
        values = self._value(field, None)
        if not isinstance(values, list) or not values:
            raise self.error(field, f"must be a list of positive numbers, not {values!r}")
        return tuple(
            ConfigFields({field: value}, self.source, prefix=self._prefix).positive_number(field) for value in values
        )

    def optional_number(self, field: str, *, absent: float | None = None) -> float | None:
        """null is none; a field that is not there at all is `absent`."""
        if field not in self.raw:
            return absent
        return None if self.raw[field] is None else self.positive_number(field)

    def optional_integer(self, field: str, *, absent: int | None = None) -> int | None:
        if field not in self.raw:
            return absent
        return None if self.raw[field] is None else self.positive_integer(field)

    def boolean(self, field: str, *, default: bool) -> bool:
        value = self._value(field, default)
        if not isinstance(value, bool):
            raise self.error(field, f"must be true or false, not {value!r}")
        return value

    def token_ids(self, field: str) -> tuple[int, ...]:
        """One id or a list of them; absent is none."""
        value = self.raw.get(field)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in ids):
            raise self.error(field, f"must be a token id or a list of token ids, not {value!r}")
        return tuple(ids)

    def switches(self, field: str, length: int) -> tuple[bool, ...] | None:
        """A list of `length` ones and zeros."""
        value = self.raw.get(field)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length or any(item not in (0, 1) for item in value):
            raise self.error(field, f"must be a list of {length} ones and zeros, not {value!r}")
        return tuple(bool(item) for item in value)

    def section(self, field: str) -> "ConfigFields | None":
        value = self.raw.get(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(field, f"must be an object, not {value!r}")
        return ConfigFields(value, self.source, prefix=f"{self._prefix}{field}.")

    def _value(self, field: str, default: object) -> object:
        value = self.raw.get(field)
        if value is not None:
            return value
        if default is None:
            raise self.error(field, "is missing")
        return default
