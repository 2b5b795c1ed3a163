"""Drives an engine through the lines of a batch: keeps it full, answers every line once, in input order.

Memory is bounded: lines are read when there is room for them, and answers wait only for the lines before theirs.
Knows no files and no model; any engine that speaks `services.worker.engine.events` will do.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from services.worker.engine.events import Cancel, EngineReady, RequestRejected, StepResult, Submit
from services.worker.offline.batch_lines import BatchLine, read_line, write_answer, write_failure
from services.worker.offline.offline_request import OfflineRequest, prepare_prompts
from shared.contracts.errors import (
    InvalidRequest,
    InvariantViolated,
    PlatformError,
    UnknownModel,
    error_classes,
    error_type,
)
from shared.contracts.events import ErrorBody
from shared.openai.outcomes import outcome_error, render_outcome
from shared.tokenization.tokenizer import Tokenizer


class BatchEngine(Protocol):
    """The engine's verbs that a batch needs. Called from one thread; `step` blocks while the model runs."""

    @property
    def ready(self) -> EngineReady: ...
    @property
    def has_work(self) -> bool: ...
    def submit(self, submit: Submit, /) -> object: ...
    def cancel(self, cancel: Cancel, /) -> object: ...
    def step(self) -> StepResult: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """`name` is what answers say. `accepted_name` None: whatever model a line asks for, this one answers."""

    name: str
    accepted_name: str | None
    tokenizer: Tokenizer | None
    eos_token_ids: tuple[int, ...]


class BatchRun:
    """One pass over one input. `answers` is the whole run; iterate it once."""

    def __init__(
        self, engine: BatchEngine, model: ServedModel, *, created_seconds: int, max_open_choices: int = 128
    ) -> None:
        self._engine = engine
        self._model = model
        self._created_seconds = created_seconds
        self._max_open_choices = max_open_choices
        self._running: dict[str, tuple[BatchLine, OfflineRequest]] = {}
        self._answers: dict[str, bytes] = {}
        self._order: list[str] = []
        self._custom_ids: set[str] = set()
        self.num_failed = 0

    def answers(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        unread = enumerate(lines, start=1)
        is_read = False
        while not is_read or self._running:
            while not is_read and self._has_room():
                number, line = next(unread, (0, b""))
                is_read = number == 0
                if line.strip():
                    self._start(number, line)
            yield from self._ready_answers()
            if self._running:
                self._step()
                yield from self._ready_answers()

    def _has_room(self) -> bool:
        num_open = sum(request.request.num_choices for _, request in self._running.values())
        return num_open < self._max_open_choices and len(self._order) < 64 * self._max_open_choices

    def _ready_answers(self) -> Iterator[bytes]:
        num_ready = 0
        for request_id in self._order:
            if request_id not in self._answers:
                break
            num_ready += 1
            yield self._answers.pop(request_id)
        del self._order[:num_ready]

    def _start(self, number: int, text: bytes) -> None:
        line = read_line(number, text)
        self._order.append(line.request_id)
        if line.request is None:
            assert line.error is not None
            self._fail(line, line.error)
            return
        try:
            self._check_names(line)
            prompts = prepare_prompts(line.request, self._model.tokenizer, self._engine.ready)
        except PlatformError as error:
            self._fail(line, outcome_error(error))
            return
        request = OfflineRequest(line.request_id, line.request, prompts, self._model.tokenizer, order=number)
        self._running[line.request_id] = (line, request)
        self._engine.submit(request.submission(self._model.eos_token_ids))

    def _check_names(self, line: BatchLine) -> None:
        assert line.custom_id is not None
        assert line.request is not None
        if line.custom_id in self._custom_ids:
            raise InvalidRequest(f"custom_id {line.custom_id} is on an earlier line as well.", param="custom_id")
        self._custom_ids.add(line.custom_id)
        asked, accepted = line.request.model, self._model.accepted_name
        if accepted is not None and asked is not None and asked != accepted:
            raise UnknownModel(f"The model `{asked}` does not exist here.", param="model")

    def _step(self) -> None:
        if not self._engine.has_work:
            raise InvariantViolated(f"the engine lost {len(self._running)} requests")
        result = self._engine.step()
        for event in result.tokens:
            if event.request_id in self._running and self._running[event.request_id][1].accept(event):
                self._engine.cancel(Cancel(request_id=event.request_id, choice=event.choice))
        for timings in result.timings:
            if timings.request_id in self._running:
                self._running[timings.request_id][1].note_timings(timings)
        for rejected in result.rejected:
            self._reject(rejected)
        for event in result.tokens:
            self._conclude_if_finished(event.request_id)

    def _reject(self, rejected: RequestRejected) -> None:
        line, _ = self._running.pop(rejected.request_id)
        error_class = error_classes().get(rejected.code, InvariantViolated)
        error = ErrorBody(
            message=rejected.message,
            type=error_type(error_class.blame, rejected.code),
            code=rejected.code,
            param=rejected.param,
        )
        self._fail(line, error)

    def _conclude_if_finished(self, request_id: str) -> None:
        line, request = self._running.get(request_id, (None, None))
        if line is None or request is None or not request.is_finished:
            return
        del self._running[request_id]
        outcome = request.outcome(model=self._model.name, created_seconds=self._created_seconds)
        self._answers[request_id] = write_answer(line, render_outcome(outcome))

    def _fail(self, line: BatchLine, error: ErrorBody) -> None:
        self.num_failed += 1
        self._answers[line.request_id] = write_failure(line, error)
