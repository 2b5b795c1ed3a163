"""Where the tokens of one step lie: in the batch, in their sequences, in the paged cache.

What every attention backend reads; it knows neither the model nor the scheduler. Legend: `T` tokens in the step,
`S` sequences, `H` query heads, `K` kv heads, `D` head size, `N` blocks, `P` positions per block, `B` longest
block table of the step.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """Sequences with one token come first (`num_single` of them), so that row s is also their token's row.

    `positions` [T] int64, the token's index in its sequence. `slots` [T] int64, block * P + offset to write to.
    `block_tables` [S, B] int32, by position in the sequence; 0 behind its end, and before what
    a window still sees. `context_lengths` [S] int32, tokens in the cache once this step's
    are written. `query_starts` [S + 1] int32, row of each sequence's first token. The lists repeat the tensors
    for code that loops in Python.

    Tokens of one sequence that are verified count as sequences of one token each, with a context of their own;
    `run_starts`: of the rows of single tokens, where another sequence begins, and their end; None: with every row.
    """

    positions: torch.Tensor
    slots: torch.Tensor
    block_tables: torch.Tensor
    context_lengths: torch.Tensor
    query_starts: torch.Tensor
    context_length_list: list[int]
    query_start_list: list[int]
    num_single: int
    block_size_tokens: int
    run_starts: list[int] | None = None

    @property
    def num_sequences(self) -> int:
        return len(self.context_length_list)
