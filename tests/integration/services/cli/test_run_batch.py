"""`penstock run-batch` as a user types it: a file of OpenAI Batch requests in, a file of answers out."""

import json
import subprocess
import sys
from pathlib import Path

PENSTOCK = [sys.executable, "-P", "-m", "services.cli"]

LINES = [
    {
        "custom_id": "chat",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0},
    },
    {
        "custom_id": "tokens",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"prompt": [5, 6, 7], "max_tokens": 3, "temperature": 0, "ignore_eos": True, "return_token_ids": True},
    },
    {"custom_id": "hot", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x", "temperature": 9}},
]


def test_every_line_is_answered_with_the_short_flags_of_the_manual(tiny_model: Path, tmp_path: Path) -> None:
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    requests.write_text("".join(json.dumps(line) + "\n" for line in LINES) + "not json\n")
    command = ["run-batch", "--model", str(tiny_model), "--dtype", "float32", "-i", str(requests), "-o", str(answers)]
    run = subprocess.run([*PENSTOCK, *command], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    chat, tokens, hot, broken = map(json.loads, answers.read_text().splitlines())
    assert (chat["custom_id"], chat["response"]["status_code"]) == ("chat", 200)
    assert chat["response"]["body"]["object"] == "chat.completion"
    assert len(tokens["response"]["body"]["choices"][0]["token_ids"]) == 3
    assert hot["response"]["status_code"] == 400
    assert hot["response"]["body"]["error"]["param"] == "temperature"
    assert broken["error"] is not None


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text("")
    command = ["run-batch", "--model", str(tmp_path / "none"), "-i", str(requests), "-o", str(tmp_path / "out")]
    run = subprocess.run([*PENSTOCK, *command], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode != 0
    assert str(tmp_path / "none") in run.stderr.replace("\n", "")
    assert "Traceback" not in run.stderr
