"""`penstock generate --show-drafts` as a user types it: each draft's fate, and the answer is that without drafts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PENSTOCK = [sys.executable, "-P", "-m", "services.cli"]


def show(model: Path, prompt: str, *options: str) -> subprocess.CompletedProcess[str]:
    asked = ["generate", "--show-drafts", "--model", str(model), "--max-tokens", "24", "--temperature", "0", *options]
    return subprocess.run([*PENSTOCK, *asked, prompt], capture_output=True, text=True, timeout=120, check=False)


def test_drafted_accepted_and_corrected_tokens_are_told_apart(tiny_model: Path) -> None:
    shown = show(tiny_model, "water", "--speculation", "quantspec", "--draft-tokens", "3")
    assert shown.returncode == 0, shown.stderr
    assert "quantspec, 3 tokens a draft: 24 tokens in" in shown.stderr
    assert "[-drafted and rejected-]" in shown.stderr
    assert re.search(r"<[^<]+>", shown.stdout)
    assert re.search(r"\[-.+?-\]", shown.stdout, re.DOTALL)
    assert re.search(r"\{\+.+?\+\}", shown.stdout, re.DOTALL)
    plain = show(tiny_model, "water", "--speculation", "none")
    assert "nothing was drafted" in plain.stderr
    answer = re.sub(r"\[-.*?-\]|\[~.*?~\]", "", shown.stdout, flags=re.DOTALL)
    assert _without_marks(answer) == _without_marks(plain.stdout)


def _without_marks(text: str) -> str:
    """Taken out of both: the model itself may have said one."""
    return re.sub(r"<|>|\{\+|\+\}", "", text)


@pytest.mark.model
def test_a_lookup_is_seen_to_copy_what_the_prompt_says(smollm2_directory: Path) -> None:
    shown = show(smollm2_directory, "Repeat after me: the quick brown fox jumps.", "--speculation", "prompt-lookup")
    assert shown.returncode == 0, shown.stderr
    assert "< brown fox>" in shown.stdout


def test_a_method_that_does_not_exist_is_one_sentence(tiny_model: Path) -> None:
    shown = show(tiny_model, "water", "--speculation", "magic")
    assert shown.returncode == 2
    assert "magic is none of none, prompt-lookup" in shown.stderr
    assert "Traceback" not in shown.stderr
