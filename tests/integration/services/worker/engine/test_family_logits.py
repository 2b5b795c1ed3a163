"""Every family's logits against transformers', at every position, in float32, within 1e-4."""

import pytest
import torch

from tests.decoder_probe import all_logits, read_checkpoint
from tests.fixtures.random_models import CASES, SaveModel, random_prompt

TOLERANCE = 1e-4
PROMPT = random_prompt(90)
PIECES = {"at once": [90], "in pieces": [37, 1, 1, 5, 1, 17, 1]}


@pytest.mark.parametrize("backend", ["auto", "gather", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers_at_every_position(case: str, backend: str, random_model: SaveModel) -> None:
    directory, model = random_model(case)
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT])).logits[0]
    config, read = read_checkpoint(directory)
    for pieces in PIECES.values():
        found = all_logits(config, read, PROMPT, backend=backend, pieces=pieces)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
