"""Where the processes of an embedded stack serve `/metrics`, as a file that a Prometheus follows."""

from __future__ import annotations

import json
from pathlib import Path

FILE_NAME = "prometheus-targets.json"


class PrometheusTargets:
    """Rewritten whole at every change; a Prometheus that watches the file notices by itself."""

    def __init__(self, data_dir: Path) -> None:
        self.file = data_dir / FILE_NAME
        self._targets: dict[str, dict[str, object]] = {}

    def add(self, name: str, *, job: str, port: int) -> None:
        """The process `name` answers on `port` of this machine."""
        self._targets[name] = {"targets": [f"127.0.0.1:{port}"], "labels": {"job": job, "process": name}}
        self._write()

    def remove(self, name: str) -> None:
        """A process that left for good; one that is started again keeps its port."""
        self._targets.pop(name, None)
        self._write()

    def _write(self) -> None:
        temporary = self.file.with_suffix(".new")
        temporary.write_text(json.dumps(list(self._targets.values()), indent=2) + "\n")
        temporary.rename(self.file)
