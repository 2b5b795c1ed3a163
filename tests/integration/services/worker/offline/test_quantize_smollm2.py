"""`penstock quantize` on the real model: transformers with compressed-tensors loads what it wrote and agrees."""

from pathlib import Path

import pytest
import torch
import transformers

from services.worker.engine.calibration.method_choice import QuantizationChoice
from services.worker.offline.english_text import Part, builtin_text, windows
from services.worker.offline.quantize_model import quantize_checkpoint
from shared.tokenization.tokenizer import Tokenizer
from tests.decoder_probe import all_logits, read_checkpoint

CHOICES = {
    "awq": QuantizationChoice(method="awq", is_symmetric=True),
    "gptq": QuantizationChoice(method="gptq", is_symmetric=True),
    "smoothquant": QuantizationChoice(method="smoothquant"),
    "smoothquant, rows": QuantizationChoice(method="smoothquant", group_size=0),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHOICES)
def test_a_second_engine_loads_what_was_written_and_agrees(smollm2_directory: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    quantize_checkpoint(smollm2_directory, out, CHOICES[name], num_sequences=8, sequence_tokens=64)
    text = windows(Tokenizer.from_directory(smollm2_directory), builtin_text(Part.HELD), length=96, count=1)
    prompt = text[0].tolist()
    ours = all_logits(*read_checkpoint(out), prompt, pieces=[len(prompt)])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager")
    for module in theirs.modules():
        # Only weights are compared: their steps of inputs are 1 / 127.5 wide, ours 1 / 127.
        if hasattr(module, "quantization_scheme"):
            module.quantization_scheme.input_activations = None
    with torch.inference_mode():
        expected = theirs(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=5e-3)
    plain = all_logits(*read_checkpoint(smollm2_directory), prompt, pieces=[len(prompt)])
    agreeing = (ours.argmax(dim=1) == plain.argmax(dim=1)).float().mean()
    assert agreeing > 0.5
    assert (ours - plain).abs().max() > 1e-2, "nothing was quantized"
