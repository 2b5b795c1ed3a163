"""A draft that knows the answers, and is told where to be wrong: every pattern of acceptance can be made to happen."""

from collections.abc import Mapping

from services.worker.engine.batch import Draft, Verdict
from services.worker.engine.sequence import Sequence
from services.worker.engine.speculation.draft_method import DraftTask


class ScriptedDraft:
    """`answers`: outputs by (request, choice). At output place p it is right where `rights[p % len(rights)]`."""

    name = "scripted"

    def __init__(self, answers: Mapping[tuple[str, int], list[int]], rights: list[bool]) -> None:
        self._answers = answers
        self._rights = rights
        self.verdicts: list[Verdict] = []
        self.forgotten: list[Sequence] = []

    def propose(self, tasks: list[DraftTask]) -> list[Draft]:
        return [Draft(token_ids=self._guess(task)) for task in tasks]

    def judged(self, verdicts: list[Verdict]) -> None:
        self.verdicts += verdicts

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence)

    def _guess(self, task: DraftTask) -> tuple[int, ...]:
        answer = self._answers[task.sequence.request.request_id, task.sequence.choice]
        start = task.sequence.num_output_tokens
        return tuple(
            token_id if self._rights[(start + place) % len(self._rights)] else token_id ^ 1
            for place, token_id in enumerate(answer[start : start + task.num_tokens])
        )
