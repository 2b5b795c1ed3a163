"""A draft that costs nothing: what followed the last time these tokens were here, or what the caller predicted.

Looks at the predicted output first, then at the sequence's own text, then at what the tenant's other sequences said.

Source: Saxena 2023, "Prompt Lookup Decoding"; Yang et al. 2023, "Inference with Reference" (LLMA).
"""

from services.worker.engine.batch import Draft, Verdict
from services.worker.engine.sequence import Sequence, SequenceState
from services.worker.engine.speculation.draft_method import DraftTask
from services.worker.engine.speculation.ngram_index import NgramIndex, continue_from
from services.worker.engine.speculation.prediction import FollowedPrediction
from services.worker.engine.speculation.shared_text import SharedText

_SIZES = (4, 3, 2, 1)
# A run of one or two tokens is found by chance, too, so it is worth a short draft: docs/speculation.md.
_MOST_TOKENS = {1: 2, 2: 4}


class PromptLookup:
    name = "prompt-lookup"

    def __init__(self, *, shared_text_tokens: int = 0) -> None:
        self._indexes: dict[Sequence, NgramIndex] = {}
        self._predictions: dict[Sequence, FollowedPrediction] = {}
        self._shared = SharedText(shared_text_tokens)

    def propose(self, tasks: list[DraftTask]) -> list[Draft]:
        return [Draft(token_ids=self._guess(task.sequence, task.num_tokens)) for task in tasks]

    def judged(self, verdicts: list[Verdict]) -> None:
        """Nothing to learn: the tokens that were accepted are in the text."""

    def forget(self, sequence: Sequence) -> None:
        self._predictions.pop(sequence, None)
        if self._indexes.pop(sequence, None) is not None and sequence.state is SequenceState.FINISHED:
            self._shared.add(sequence.tenant, sequence.token_ids)

    def _guess(self, sequence: Sequence, num_tokens: int) -> tuple[int, ...]:
        if sequence.request.predicted_token_ids:
            followed = self._predictions.get(sequence)
            if followed is None:
                followed = self._predictions[sequence] = FollowedPrediction(sequence.request.predicted_token_ids)
            if guess := followed.next_tokens(sequence.output_token_ids, num_tokens):
                return guess
        index = self._indexes.get(sequence)
        if index is None:
            index = self._indexes[sequence] = NgramIndex(_SIZES)
        index.extend(sequence.token_ids)
        own = index.find(sequence.token_ids)
        if own is None or own.length < SharedText.LEAST_TOKENS:
            shared = self._shared.continuation(sequence.tenant, sequence.token_ids, num_tokens)
            if shared or own is None:
                return shared
        return continue_from(sequence.token_ids, own.place, min(num_tokens, _MOST_TOKENS.get(own.length, num_tokens)))
