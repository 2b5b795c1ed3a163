"""Where a running stack can be found: a small JSON file in its data directory, there while the stack runs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.cli.console import CommandFailed

FILE_NAME = "stack.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackState:
    """The addresses of a running stack and the process that runs it."""

    pid: int
    http_url: str
    supervisor_url: str
    kafka: str
    redis: str
    span_database: str
    pool: str
    control: str = ""
    """The socket at which the stack takes orders; empty: it takes none."""

    def ports(self) -> set[int]:
        """Those that others reach it at."""
        urls = (self.http_url, self.supervisor_url, f"kafka://{self.kafka}", self.redis)
        return {port for url in urls if (port := urlsplit(url).port) is not None}

    def write(self, data_dir: Path) -> None:
        temporary = data_dir / f"{FILE_NAME}.new"
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")
        temporary.rename(data_dir / FILE_NAME)


def remove_state(data_dir: Path) -> None:
    (data_dir / FILE_NAME).unlink(missing_ok=True)


def running_stack(data_dir: Path) -> StackState | None:
    """The stack that runs with this data directory, if one does."""
    try:
        state = StackState(**json.loads((data_dir / FILE_NAME).read_text()))
        os.kill(state.pid, 0)
    except (FileNotFoundError, ProcessLookupError, ValueError, TypeError):
        return None
    return state


def require_stack(data_dir: Path) -> StackState:
    state = running_stack(data_dir)
    if state is None:
        raise CommandFailed(
            f"no stack runs with the data directory {data_dir}",
            hint="start one with `penstock up`, or name its directory with --data-dir",
        )
    return state
