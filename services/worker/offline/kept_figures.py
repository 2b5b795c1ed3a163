"""What a benchmark has measured so far, in one file: a run that was cut short goes on where it was.

Knows neither figures nor engines. Who changes what is measured under the same key removes the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE_NAME = "measured.json"


class KeptFigures:
    """`file` need not exist. Raises ValueError for one that something else wrote."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._figures: dict[str, Any] = {}
        if file.is_file():
            try:
                self._figures = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{file} holds no figures of an earlier run; remove it") from error

    def get(self, key: str) -> Any | None:
        return self._figures.get(key)

    def put(self, key: str, value: Any) -> None:
        """`value`: what JSON can say. The file is whole at every moment."""
        self._figures[key] = value
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._figures, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self._file)
