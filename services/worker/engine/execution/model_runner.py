"""Runs one scheduled batch: block copies, the decoder, the sampler. Owns the model and the cache's tensors.

Knows no queue and no messages: what to run was decided before, what it means is decided after.
"""

from collections.abc import Sequence

import torch

from services.worker.engine.attention.key_frame import KeyFrame
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.batch import SampledToken, ScheduledBatch, ScheduledSequence, StepOutcome
from services.worker.engine.device_transfer import select_rows, upload
from services.worker.engine.execution.cache_memory import CacheMemory, CacheShape
from services.worker.engine.execution.decode_graphs import DecodeGraphs
from services.worker.engine.execution.graph_capture import GraphCapture
from services.worker.engine.execution.row_runner import RowRunner
from services.worker.engine.execution.step_inputs import StepTensors, prepare_inputs
from services.worker.engine.execution.step_measurement import measuring_prompt
from services.worker.engine.execution.verdicts import judge_drafts
from services.worker.engine.kv_cache.layer_groups import LayerGroups
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.prompt_logprobs import PromptScores, score_prompts
from services.worker.engine.sampling.sampler import PendingSamples, sample, take_largest, wants_only_the_largest


class PendingStep:
    """A step that was launched: its tokens are on their way."""

    def __init__(
        self, items: list[ScheduledSequence], samples: PendingSamples | None, scores: list[PromptScores]
    ) -> None:
        """`items` in the order of their draws."""
        self._items = items
        self._samples = samples
        self._scores = scores

    def read(self) -> StepOutcome:
        """Waits for the device. One token for every sampler of the batch, and those of its draft that stand."""
        for score in self._scores:
            score.read()
        return judge_drafts(self._items, [] if self._samples is None else self._samples.read())


class ModelRunner:
    def __init__(
        self,
        decoder: Decoder,
        *,
        num_blocks: int,
        groups: LayerGroups,
        cache_shape: CacheShape,
        device: torch.device,
        judges_by_rejection: bool = False,
        frames: Sequence[KeyFrame | None] | None = None,
    ) -> None:
        """`frames`: of keys in cells, by layer; None: none."""
        self._decoder = decoder
        self._judges_by_rejection = judges_by_rejection
        self._block_size_tokens = cache_shape.block_size_tokens
        self._device = device
        # One block more than the scheduler knows of: what a recorded step's padding writes to.
        self._spare_block = num_blocks
        self._cache = CacheMemory(cache_shape, groups, num_blocks=num_blocks + 1, device=device)
        if frames is not None:
            self._cache.use_frames(frames)
        self._num_groups = len(groups.groups)
        self._graphs: DecodeGraphs | None = None

    @property
    def layers(self) -> list[LayerCache]:
        """Every layer's part of the cache: a draft may read and write there, too."""
        return self._cache.layers

    @torch.inference_mode()
    def record_decode_graphs(self, capture: GraphCapture, *, max_rows: int, max_tokens: int) -> list[int]:
        """From now on steps of single tokens are replayed. Returns the sizes that were recorded."""
        self._graphs = DecodeGraphs(
            self._compute_all,
            capture,
            max_rows=max_rows,
            num_columns=-(-max_tokens // self._block_size_tokens),
            num_groups=self._num_groups,
            block_size_tokens=self._block_size_tokens,
            spare_slot=self._spare_block * self._block_size_tokens,
            device=self._device,
        )
        return self._graphs.sizes

    def run(self, batch: ScheduledBatch) -> list[SampledToken]:
        """One token for every sampler of the batch."""
        return self.launch(batch).read().tokens

    @torch.inference_mode()
    def launch(self, batch: ScheduledBatch) -> PendingStep:
        """Everything of a step but waiting for it: on a CUDA device it returns while the device still computes."""
        self._copy_blocks(batch.block_copies)
        inputs = prepare_inputs(
            batch, block_size_tokens=self._block_size_tokens, judges_by_rejection=self._judges_by_rejection
        )
        for item in inputs.scheduled:
            for sequence in item.samplers:
                if sequence.constraint is not None:
                    sequence.constraint.begin_mask(item.draft.token_ids)
        recorded = None if self._graphs is None else self._graphs.run(inputs)
        if recorded is None:
            tensors = inputs.to(self._device)
            hidden = self._decoder.forward(tensors.token_ids, self._cache.layers, tensors.layouts)
        else:
            hidden, logits = recorded
        scores = score_prompts(inputs.items, inputs.arrays.query_starts.tolist(), hidden, self._decoder.logits)
        samples = None
        if inputs.draws and recorded is not None:
            samples = sample(select_rows(logits, inputs.sampled_rows), inputs.draws)
        elif inputs.draws:
            samples = self._sample(select_rows(hidden, inputs.sampled_rows), inputs.draws)
        return PendingStep(inputs.scheduled, samples, scores)

    def _sample(self, hidden: torch.Tensor, draws: list[Draw]) -> PendingSamples:
        """hidden [R, hidden], one row for each draw."""
        largest = self._decoder.largest(hidden) if wants_only_the_largest(draws) else None
        if largest is not None:
            return take_largest(largest, draws)
        return sample(self._decoder.logits(hidden), draws)

    def sharing_cache(self, decoder: Decoder | None = None, layers: Sequence[LayerCache] | None = None) -> RowRunner:
        """Single steps over the same blocks, through other weights or another view of the cache's layers."""
        return RowRunner(
            decoder or self._decoder,
            layers or self._cache.layers,
            block_size_tokens=self._block_size_tokens,
            device=self._device,
        )

    @torch.inference_mode()
    def prompt_logits(self, token_ids: list[int]) -> torch.Tensor:
        """[T, V] float32 of one sequence, computed alone in one step. For measurements: it writes over the cache."""
        block_size = self._block_size_tokens
        batch = measuring_prompt(token_ids, block_size_tokens=block_size, num_groups=self._num_groups)
        inputs = prepare_inputs(batch, block_size_tokens=block_size)
        return self._compute_all(inputs.to(self._device))[1]

    def _compute_all(self, tensors: StepTensors) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self._decoder.forward(tensors.token_ids, self._cache.layers, tensors.layouts)
        return hidden, self._decoder.logits(hidden)

    def _copy_blocks(self, copies: dict[int, int]) -> None:
        if copies:
            self._cache.copy_blocks(upload(list(copies.values()), self._device), upload(list(copies), self._device))
