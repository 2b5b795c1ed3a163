"""The layer that calibration runs computes what transformers computes, for every dense family."""

from pathlib import Path

import pytest
import torch

from services.worker.engine.calibration.layer_shape import Site, linear_names, site_shapes
from services.worker.engine.calibration.reference_layer import ReferenceLayer, norm_factors
from services.worker.engine.checkpoints.weights import Checkpoint, open_checkpoint
from tests.fixtures.random_models import CASES, SaveModel, random_prompt

DENSE = [case for case in CASES if not case.startswith(("mixtral", "qwen3_moe"))]


def _layer_weights(checkpoint: Checkpoint, index: int) -> dict[str, torch.Tensor]:
    prefix = f"model.layers.{index}."
    return {
        name.removeprefix(prefix): checkpoint.tensor(name)
        for name in checkpoint.tensor_names()
        if name.startswith(prefix)
    }


@torch.inference_mode()
def reference_logits(directory: Path, token_ids: list[list[int]]) -> torch.Tensor:
    """[sequences, length, V], all layers by the reference."""
    checkpoint = open_checkpoint(directory)
    config = checkpoint.config
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    hidden = embedding[torch.tensor(token_ids)] * config.embedding_scale
    for index, layer in enumerate(config.layers):
        weights = _layer_weights(checkpoint, index)
        hidden = ReferenceLayer(config, layer, weights, dtype=torch.float32).forward(hidden)
    factors = norm_factors(checkpoint.tensor("model.norm.weight"), config)
    hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps) * factors
    head = embedding if config.tie_word_embeddings else checkpoint.tensor("lm_head.weight")
    logits = hidden @ head.T
    return logits if config.final_cap is None else config.final_cap * torch.tanh(logits / config.final_cap)


@pytest.mark.parametrize("case", DENSE)
def test_all_layers_in_turn_give_transformers_logits(case: str, random_model: SaveModel) -> None:
    directory, theirs = random_model(case)
    prompts = [random_prompt(40, seed=3), random_prompt(40, seed=4)]
    with torch.inference_mode():
        expected = theirs(torch.tensor(prompts)).logits
    torch.testing.assert_close(reference_logits(directory, prompts), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("case", ["llama", "gemma2", "phi3"])
def test_every_site_is_observed_once_with_the_input_of_its_linears(case: str, random_model: SaveModel) -> None:
    checkpoint = open_checkpoint(random_model(case)[0])
    config = checkpoint.config
    weights = _layer_weights(checkpoint, 0)
    seen: dict[Site, torch.Tensor] = {}
    hidden = torch.randn(2, 7, config.hidden_size, generator=torch.Generator().manual_seed(1))
    ReferenceLayer(config, config.layers[0], weights, dtype=torch.float32).forward(
        hidden, lambda site, inputs: seen.update({site: inputs})
    )
    assert set(seen) == set(Site)
    for site, shape in site_shapes(config).items():
        for name in shape.linears:
            assert seen[site].shape == (14, weights[f"{name}.weight"].shape[1])
    assert {f"{name}.weight" for name in linear_names(config)} == {
        name for name, tensor in weights.items() if tensor.dim() == 2
    }
