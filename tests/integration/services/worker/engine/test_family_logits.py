"""Every family's logits against transformers', at every position, in float32, within 1e-4."""

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
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


@pytest.mark.parametrize(("case", "most"), [("phi3, longrope", 128), ("llama, dynamic rope", 512), ("llama", None)])
def test_a_rope_that_follows_the_length_is_served_as_far_as_its_angles_are_fixed(
    case: str, most: int | None, random_model: SaveModel
) -> None:
    directory, _ = random_model(case)
    assert Engine.load(EngineConfig(model=directory, num_kv_blocks=64)).ready.max_model_tokens == (most or 512)
    longer = EngineConfig(model=directory, num_kv_blocks=64, max_model_tokens=513)
    if most is None:
        assert Engine.load(longer).ready.max_model_tokens == 513
    else:
        with pytest.raises(ValueError, match=f"max_model_tokens: 513 is more than the {most} tokens"):
            Engine.load(longer)
