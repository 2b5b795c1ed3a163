"""The whole offline path on a real, tiny model: files in, files out, exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.offline.run_batch import run_batch
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint
from tests.fixtures.tiny_tokenizers import CHATML, write_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_checkpoint(directory, config={"vocab_size": 272})
    return write_tokenizer(directory, config={"chat_template": CHATML, "eos_token": "<|end|>"})


def line(custom_id: str, **body: Any) -> str:
    fields = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions"}
    return json.dumps({**fields, "body": {"prompt": "hello", "max_tokens": 6, "temperature": 0, **body}})


def write_lines(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n")
    return file


def read_answers(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text().splitlines()]


def test_a_file_is_answered_line_by_line(model: Path, tmp_path: Path) -> None:
    lines = [line("a", return_token_ids=True), "broken", line("b", logprobs=2), line("c", temperature=9)]
    output = tmp_path / "new" / "answers.jsonl"
    summary = run_batch(model, write_lines(tmp_path / "in.jsonl", *lines), output, "float32")
    found = read_answers(output)
    assert [answer["custom_id"] for answer in found] == ["a", None, "b", "c"]
    assert [answer["response"]["status_code"] for answer in found] == [200, 400, 200, 400]
    assert (summary.num_lines, summary.num_failed) == (4, 2)
    assert found[0]["response"]["body"]["model"] == "tiny"
    assert len(found[0]["response"]["body"]["choices"][0]["token_ids"]) == 6
    logprobs = found[2]["response"]["body"]["choices"][0]["logprobs"]
    assert len(logprobs["token_logprobs"]) == 6
    assert all(value <= 0 for value in logprobs["token_logprobs"])
    assert list(output.parent.iterdir()) == [output]


def test_the_same_file_gives_the_same_answers_however_it_is_batched(model: Path, tmp_path: Path) -> None:
    lines = [line(str(index), prompt="he" * (1 + index), temperature=1.0, seed=index) for index in range(9)]
    together, alone = tmp_path / "together.jsonl", tmp_path / "alone.jsonl"
    run_batch(model, write_lines(tmp_path / "in.jsonl", *lines), together, "float32")
    texts = [answer["response"]["body"]["choices"] for answer in read_answers(together)]
    for index in (0, 4, 8):
        run_batch(model, write_lines(tmp_path / "in.jsonl", lines[index]), alone, "float32")
        assert read_answers(alone)[0]["response"]["body"]["choices"] == texts[index]


def test_formats_tools_bias_and_echo_are_the_same_as_elsewhere(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": CHATML + "{% if tools %}<tool_call>{% endif %}", "eos_token": "<|end|>"})
    )
    chat = {"custom_id": "call", "method": "POST", "url": "/v1/chat/completions"}
    parameters = {"type": "object", "properties": {"gate": {"enum": ["n", "s"]}}, "required": ["gate"]}
    tool = {
        "type": "function",
        "function": {"name": "open", "parameters": parameters | {"additionalProperties": False}},
    }
    asked = {"messages": [{"role": "user", "content": "x"}], "tools": [tool], "tool_choice": "required"}
    choice = {"choice": ["yes", "no"]}
    impossible = {"json": {"type": "string", "enum": [1]}}
    lines = [
        line("choice", structured_outputs=choice, n=2, max_tokens=20, temperature=1.0),
        line("impossible", structured_outputs=impossible),
        line("bias", logit_bias={"70": 100}, return_token_ids=True, ignore_eos=True),
        line("echo", echo=True, logprobs=1),
        line("unknown token", logit_bias={"272": 1}),
        json.dumps({**chat, "body": {**asked, "max_tokens": 95, "parallel_tool_calls": False}}),
    ]
    output = tmp_path / "answers.jsonl"
    run_batch(model, write_lines(tmp_path / "in.jsonl", *lines), output, "float32")
    found = {answer["custom_id"]: answer["response"] for answer in read_answers(output)}
    assert {one["text"] for one in found["choice"]["body"]["choices"]} <= {"yes", "no"}
    assert found["impossible"]["status_code"] == 400
    assert found["impossible"]["body"]["error"]["param"] == "structured_outputs"
    assert found["bias"]["body"]["choices"][0]["token_ids"] == [70] * 6
    assert found["unknown token"]["body"]["error"]["param"] == "logit_bias"
    echoed = found["echo"]["body"]["choices"][0]
    assert echoed["text"].startswith("hello")
    assert echoed["logprobs"]["token_logprobs"][0] is None
    (call,) = found["call"]["body"]["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["gate"] in ("n", "s")
    assert found["call"]["body"]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_best_of_many_and_the_scores_of_a_prompt_are_had_by_the_line(model: Path, tmp_path: Path) -> None:
    free = {"temperature": 1.0, "seed": 3, "logprobs": 0, "return_token_ids": True}
    lines = [
        line("all", n=5, **free),
        line("best", n=2, best_of=5, **free),
        line("silent", best_of=5, temperature=1.0, seed=3),
        line("score", max_tokens=0, echo=True, logprobs=0),
        line("nothing", max_tokens=0),
    ]
    output = tmp_path / "answers.jsonl"
    run_batch(model, write_lines(tmp_path / "in.jsonl", *lines), output, "float32")
    found = {answer["custom_id"]: answer["response"]["body"] for answer in read_answers(output)}
    ranked = sorted(found["all"]["choices"], key=lambda one: -sum(one["logprobs"]["token_logprobs"]))
    assert [one["token_ids"] for one in found["best"]["choices"]] == [one["token_ids"] for one in ranked[:2]]
    assert [one["index"] for one in found["best"]["choices"]] == [0, 1]
    assert found["best"]["usage"]["completion_tokens"] == found["all"]["usage"]["completion_tokens"] == 30
    (silent,) = found["silent"]["choices"]
    assert (silent["text"], silent["logprobs"]) == (ranked[0]["text"], None)
    (scored,) = found["score"]["choices"]
    assert (scored["text"], scored["finish_reason"]) == ("hello", "length")
    assert len(scored["logprobs"]["token_logprobs"]) == found["score"]["usage"]["prompt_tokens"]
    assert found["score"]["usage"]["completion_tokens"] == 0
    assert found["nothing"]["error"]["param"] == "max_tokens"


def test_a_model_that_cannot_be_loaded_leaves_the_output_alone(tmp_path: Path) -> None:
    output = write_lines(tmp_path / "out.jsonl", "earlier answers")
    with pytest.raises(CheckpointError):
        run_batch(tmp_path / "nowhere", write_lines(tmp_path / "in.jsonl", line("a")), output)
    assert output.read_text() == "earlier answers\n"


def test_a_missing_input_is_an_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_batch(model, tmp_path / "nothing.jsonl", tmp_path / "out.jsonl")


def command(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"services.worker.offline.{module}", *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.slow
def test_a_run_that_answered_every_line_succeeds_even_where_an_answer_is_an_error(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    source = write_lines(tmp_path / "in.jsonl", line("a"), "broken")
    files = ["--model", str(model), "--input", str(source), "--output", str(output), "--dtype", "float32"]
    finished = command("run_batch", *files)
    assert finished.returncode == 0, finished.stderr
    assert "1 answered with an error" in finished.stderr
    assert len(read_answers(output)) == 2
    assert finished.stdout == ""


@pytest.mark.slow
def test_a_command_that_cannot_run_says_why_in_one_line(tmp_path: Path) -> None:
    finished = command("import_model", str(tmp_path / "no.gguf"), "--out", str(tmp_path / "out"))
    assert finished.returncode == 2
    assert "there is no such file" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
