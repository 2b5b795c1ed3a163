"""The parity of test_family_logits.py notices every feature: with any one of them undone it fails."""

import pytest
import torch

from tests.decoder_probe import all_logits, read_checkpoint
from tests.fixtures.missing_features import MISSING
from tests.fixtures.random_models import SaveModel, random_prompt

TOLERANCE = 1e-4
CLEARLY = 100 * TOLERANCE
PROMPT = random_prompt(90)


def largest_difference(case: str, feature: str | None, random_model: SaveModel) -> float:
    directory, model = random_model(case)
    config, read = read_checkpoint(directory)
    if feature is not None:
        config, read = MISSING[case][feature](config, read)
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT])).logits[0]
    return float((all_logits(config, read, PROMPT, pieces=[len(PROMPT)]) - expected).abs().max())


@pytest.mark.parametrize(
    ("case", "feature"), [(case, feature) for case, breaks in MISSING.items() for feature in breaks]
)
def test_without_it_the_logits_are_others(case: str, feature: str, random_model: SaveModel) -> None:
    assert largest_difference(case, feature, random_model) > CLEARLY


@pytest.mark.parametrize("case", MISSING)
def test_with_all_of_them_they_are_the_same(case: str, random_model: SaveModel) -> None:
    assert largest_difference(case, None, random_model) < TOLERANCE
