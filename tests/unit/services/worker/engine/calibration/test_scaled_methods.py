"""Scales that move between activations and weights: nothing changes without rounding, much does with it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.calibration.awq import ActivationAware
from services.worker.engine.calibration.clipping import clipped_scales, quantize_clipped
from services.worker.engine.calibration.gptq import SecondOrder
from services.worker.engine.calibration.input_scaling import apply_scales, can_scale, shared_per_kv_head
from services.worker.engine.calibration.layer_shape import Site, site_shapes
from services.worker.engine.calibration.method import LayerScheme, QuantizationMethod, QuantizedLayer, RoundToNearest
from services.worker.engine.calibration.reference_layer import ReferenceLayer
from services.worker.engine.calibration.site_statistics import SiteStatistics, output_error
from services.worker.engine.calibration.smoothquant import SmoothQuant, smoothing_scales
from services.worker.engine.checkpoints.model_config import DecoderConfig, parse_model_config
from services.worker.engine.checkpoints.tensor_shapes import expected_shapes
from services.worker.engine.quantization.quantization_error import GroupSizeDoesNotDivide
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import choose_scales, quantize, round_with
from services.worker.engine.quantization.scheme import QuantizationScheme, integers
from tests.fixtures.tiny_checkpoint import TINY_CONFIG

GEMMA: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"],
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 16,
    "sliding_window": 5,
    "head_dim": 16,
}
LLAMA: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "attention_bias": True, "mlp_bias": True}


def make_layer(changes: dict[str, Any]) -> tuple[DecoderConfig, dict[str, torch.Tensor]]:
    config = parse_model_config({**TINY_CONFIG, **LLAMA, **changes}, source=Path("config.json"))
    generator = torch.Generator().manual_seed(5)
    weights = {
        name.removeprefix("model.layers.0."): torch.randn(shape, generator=generator) * 0.2
        for name, shape in expected_shapes(config).items()
        if name.startswith("model.layers.0.")
    }
    for name, tensor in weights.items():
        if name.endswith("layernorm.weight") and not config.norm_weights_from_one:
            tensor += 1
    return config, weights


def hidden_states(config: DecoderConfig) -> torch.Tensor:
    """With a few channels that are much larger than the others."""
    hidden = torch.randn(8, 32, config.hidden_size, generator=torch.Generator().manual_seed(6))
    hidden[..., :3] *= 40
    return hidden


def observe(config: DecoderConfig, weights: dict[str, torch.Tensor]) -> dict[Site, SiteStatistics]:
    seen: dict[Site, SiteStatistics] = {}

    def add(site: Site, inputs: torch.Tensor) -> None:
        seen.setdefault(site, SiteStatistics(inputs.shape[1])).add(inputs)

    ReferenceLayer(config, config.layers[0], weights, dtype=torch.float32).forward(hidden_states(config), add)
    return seen


def outputs(config: DecoderConfig, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return ReferenceLayer(config, config.layers[0], weights, dtype=torch.float32).forward(hidden_states(config))


@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 4}, GEMMA], ids=["grouped heads", "all heads", "gemma"]
)
@pytest.mark.parametrize("site", list(Site))
def test_a_scale_moved_into_the_weights_changes_nothing(changes: dict[str, Any], site: Site) -> None:
    config, weights = make_layer(changes)
    shape = site_shapes(config)[site]
    assert can_scale(shape)
    columns = weights[f"{shape.linears[0]}.weight"].shape[1]
    scales = torch.rand(columns, generator=torch.Generator().manual_seed(7)) * 3 + 0.2
    scales = shared_per_kv_head(scales, shape, config)
    changed = apply_scales(weights, shape, scales, config)
    assert all(not torch.allclose(changed[name], weights[name]) for name in changed)
    torch.testing.assert_close(outputs(config, {**weights, **changed}), outputs(config, weights), rtol=1e-3, atol=1e-3)


def test_query_heads_that_share_a_value_head_share_its_scale() -> None:
    config, _ = make_layer({})
    shape = site_shapes(config)[Site.ATTENTION_OUTPUT]
    values = torch.arange(64.0)
    shared = shared_per_kv_head(values, shape, config).view(2, 2, 16)
    assert torch.equal(shared[:, 0], shared[:, 1])
    assert shared[0, 0].tolist() == values[16:32].tolist()
    other = site_shapes(config)[Site.FEED_FORWARD_INPUT]
    assert torch.equal(shared_per_kv_head(values, other, config), values)


def test_fused_projections_have_no_place_for_scales_of_what_they_produce() -> None:
    config, _ = make_layer({"architectures": ["Phi3ForCausalLM"], "attention_bias": False, "mlp_bias": False})
    assert [can_scale(shape) for shape in site_shapes(config).values()] == [True, False, True, False]


def error_of(config: DecoderConfig, weights: dict[str, torch.Tensor], layer: QuantizedLayer) -> float:
    """Of the whole layer's output; inputs are rounded where the tensors say so."""
    plain = {**weights, **layer.changed}
    plain |= {f"{name}.weight": tensor.dequantize() for name, tensor in layer.linears.items()}
    return float((outputs(config, plain) - outputs(config, weights)).pow(2).mean())


@pytest.mark.parametrize("changes", [{}, GEMMA], ids=["llama", "gemma"])
@pytest.mark.parametrize("method", [ActivationAware, SecondOrder])
def test_calibrated_methods_halve_the_error_of_plain_rounding(
    changes: dict[str, Any], method: type[ActivationAware] | type[SecondOrder]
) -> None:
    config, weights = make_layer(changes)
    scheme = LayerScheme(weights=integers(4, group_size=32), scale_dtype=torch.float32)
    seen = observe(config, weights)
    plain = error_of(config, weights, RoundToNearest(scheme).quantize_layer(config, weights, {}))
    calibrated = error_of(config, weights, method(scheme).quantize_layer(config, weights, seen))
    assert calibrated < 0.5 * plain


def _products(
    config: DecoderConfig,
    weights: dict[str, torch.Tensor],
    method: QuantizationMethod,
    seen: dict[Site, SiteStatistics],
) -> float:
    """Error of the products at the sites fed by norms, inputs rounded to eight bits a token."""
    layer = method.quantize_layer(config, weights, seen)
    total = 0.0
    for site in (Site.ATTENTION_INPUT, Site.FEED_FORWARD_INPUT):
        shape = site_shapes(config)[site]
        inputs = seen[site].samples()
        norm = f"{shape.norm}.weight"
        ratio = layer.changed.get(norm, weights[norm]) / weights[norm]
        rounded = quantize(inputs * ratio, integers(8)).dequantize()
        producers = {other.producer for other in site_shapes(config).values()}
        for name in set(shape.linears) - producers:  # a producer's rows are divided by the next site's scales
            expected = inputs @ weights[f"{name}.weight"].T
            total += float((rounded @ layer.linears[name].dequantize().T - expected).pow(2).mean())
    return total


def test_smoothing_quarters_the_error_of_eight_bit_products_with_outliers() -> None:
    config, weights = make_layer({})
    scheme = LayerScheme(weights=integers(8), activations=integers(8), scale_dtype=torch.float32)
    seen = observe(config, weights)
    smooth = _products(config, weights, SmoothQuant(scheme), seen)
    assert smooth < 0.25 * _products(config, weights, RoundToNearest(scheme), seen)


def test_smoothing_follows_the_papers_equation() -> None:
    magnitudes, peaks = torch.tensor([16.0, 1.0]), torch.tensor([1.0, 4.0])
    ratio = smoothing_scales(magnitudes, peaks, 0.5)
    assert (ratio[0] / ratio[1]).item() == pytest.approx((16**0.5 / 1**0.5) / (1**0.5 / 4**0.5))
    assert smoothing_scales(magnitudes, peaks, None).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("method", [SmoothQuant, RoundToNearest])
def test_tensors_say_that_their_inputs_are_rounded(method: type[SmoothQuant] | type[RoundToNearest]) -> None:
    config, weights = make_layer({})
    scheme = LayerScheme(weights=integers(8), activations=integers(8))
    layer = method(scheme).quantize_layer(config, weights, observe(config, weights))
    assert {tensor.activations for tensor in layer.linears.values()} == {integers(8)}


@pytest.mark.parametrize("scheme", [integers(4, group_size=32), integers(4, is_symmetric=False), integers(2)], ids=repr)
def test_clipping_never_makes_a_group_worse_and_makes_some_better(scheme: QuantizationScheme) -> None:
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(8)) ** 3
    gram = torch.diag(torch.rand(96, generator=torch.Generator().manual_seed(9)) + 0.1)
    clipped = quantize_clipped(weight, scheme, gram, scale_dtype=torch.float32)
    plain = round_with(weight, scheme, *choose_scales(weight, scheme))

    def errors(tensor: QuantizedTensor) -> torch.Tensor:
        change = (tensor.dequantize() - weight).view(16, scheme.num_groups(96), -1)
        return (change.pow(2) * gram.diagonal().view(scheme.num_groups(96), -1)).sum(-1)

    assert bool((errors(clipped) <= errors(plain) * 1.0001).all())
    assert float(errors(clipped).sum()) < 0.97 * float(errors(plain).sum())
    scales, _ = clipped_scales(weight, scheme, gram, scale_dtype=torch.float32)
    assert bool((scales <= choose_scales(weight, scheme)[0]).all())


def test_statistics_do_not_depend_on_how_the_text_is_cut() -> None:
    inputs = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    whole, cut = SiteStatistics(8), SiteStatistics(8)
    whole.add(inputs)
    for part in inputs.split(100):
        cut.add(part)
    torch.testing.assert_close(cut.gram, inputs.T @ inputs / 300)
    torch.testing.assert_close(cut.gram, whole.gram)
    torch.testing.assert_close(cut.abs_mean, inputs.abs().mean(0))
    assert torch.equal(cut.abs_max, inputs.abs().amax(0))
    assert torch.equal(cut.samples(), inputs)
    change = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    assert output_error(change, whole.gram) == pytest.approx(float((inputs @ change.T).pow(2).sum() / 300), rel=1e-4)


def test_a_long_text_leaves_a_bounded_sample() -> None:
    statistics = SiteStatistics(2)
    for begin in range(20):
        statistics.add(torch.full((3000, 2), float(begin)))
    samples = statistics.samples()
    assert 1000 <= samples.shape[0] <= 2048
    assert set(samples[:, 0].tolist()) == set(map(float, range(20)))


def test_a_width_that_the_wanted_groups_do_not_divide_gets_the_largest_that_do() -> None:
    scheme = LayerScheme(weights=integers(4, group_size=128))
    assert [scheme.for_columns(columns).group_size for columns in (1536, 576, 96)] == [128, 96, 96]
    assert dataclasses.replace(scheme, weights=integers(4)).for_columns(77) == integers(4)
    with pytest.raises(GroupSizeDoesNotDivide):
        scheme.for_columns(77)
