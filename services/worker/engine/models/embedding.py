"""Token ids to vectors, from a table of its own; a tied head that packed the table looks them up itself."""

from collections.abc import Callable

import torch
from torch.nn import functional

Embed = Callable[[torch.Tensor], torch.Tensor]
"""token_ids [T] int64 -> [T, hidden], the caller's to overwrite."""


class Embedding:
    def __init__(self, table: torch.Tensor) -> None:
        self._table = table

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(token_ids, self._table)
