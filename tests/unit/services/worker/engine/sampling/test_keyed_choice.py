"""A keyed draw in one native pass is the one by its definition: scores, noise, the largest."""

import pytest
import torch

from services.worker.engine.native.choice_library import load_choose
from services.worker.engine.sampling import keyed_choice
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.keyed_choice import at_temperatures, choose
from services.worker.engine.sampling.noise import NoiseStream, gumbel
from tests.engine_driver import make_sequence

TEMPERATURES = [1.0, 0.7, 1e-6, 2.5, 1.0]


def draws(count: int) -> list[Draw]:
    return [Draw(make_sequence([1, 2, 3], seed=2**40 + 7 * row)) for row in range(count)]


def by_definition(scores: torch.Tensor, rows: list[Draw]) -> torch.Tensor:
    seeds, positions = [row.sequence.seed for row in rows], [row.position for row in rows]
    return (gumbel(seeds, positions, scores.shape[1], NoiseStream.TARGET, scores.device) + scores).argmax(dim=1)


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("num_tokens", [1, 63, 64, 1_000, 8_193, 49_152])
def test_one_pass_over_logits_is_what_its_parts_are(
    num_tokens: int, is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_native and load_choose() is None:
        pytest.skip("no C compiler")
    if not is_native:
        monkeypatch.setattr(keyed_choice, "load_choose", lambda: None)
    rows = draws(len(TEMPERATURES))
    logits = 4 * torch.randn(len(rows), num_tokens, generator=torch.Generator().manual_seed(num_tokens))
    logits[4, : num_tokens // 2] = -torch.inf
    temperatures = torch.tensor(TEMPERATURES)
    expected = by_definition(at_temperatures(logits, temperatures), rows)
    assert choose(logits.clone(), rows, temperatures=temperatures).tolist() == expected.tolist()
    scores = at_temperatures(logits, temperatures)
    assert choose(scores, rows).tolist() == expected.tolist()
