"""The one error of this package: a checkpoint that cannot be served, said before anything is allocated."""

from pathlib import Path

from services.worker.engine.config import EngineRefused


class CheckpointError(EngineRefused):
    """A file of a checkpoint is missing, damaged or asks for something we do not do.

    `file` is where, `subject` the tensor or configuration field; both are in the message.
    """

    def __init__(self, file: Path, problem: str, *, subject: str | None = None) -> None:
        self.file = file
        self.subject = subject
        self.problem = problem
        where = f"{file}: {subject}: " if subject else f"{file}: "
        super().__init__(where + problem)
