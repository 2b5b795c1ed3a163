"""Every warning says what to do: in its own words, or by the advice that its log line carries."""

import ast
from collections.abc import Iterator
from pathlib import Path

from services.supervisor.fleet_watch import _ALARMING
from shared.telemetry.advice import ADVICE

ROOT = Path(__file__).parents[2]
LOUD = {"warning", "error", "exception", "critical"}
LOGGERS = {"logger", "_log", "_LOG"}
SAYS_IT_ITSELF = ("; ", ": ", "?")
BY_VARIABLE = {"otherwise", "event.kind.value"}
"""Words that are passed on; those of `event.kind` are looked at below."""


def warnings() -> Iterator[tuple[str, ast.expr]]:
    for file in [*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            called = node.func
            is_ours = isinstance(called, ast.Attribute) and getattr(called.value, "id", "") in LOGGERS
            is_loud = isinstance(called, ast.Attribute) and called.attr in LOUD
            is_chosen = getattr(called, "id", "") == "report" and "supervisor" in file.parts
            if (is_ours and is_loud) or is_chosen:
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node.args[0]


def words_of(expression: ast.expr) -> str:
    match expression:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(words_of(part) for part in parts)
        case _:
            return ""


def test_every_warning_says_what_to_do() -> None:
    silent = [
        f"{where}: {words_of(said) or ast.unparse(said)}"
        for where, said in warnings()
        if ast.unparse(said) not in BY_VARIABLE
        and words_of(said) not in ADVICE
        and not any(mark in words_of(said) for mark in SAYS_IT_ITSELF)
    ]
    assert silent == []
    assert {kind.value for kind in _ALARMING} <= ADVICE.keys()


def test_no_advice_is_for_a_warning_that_nobody_gives() -> None:
    said = {words_of(expression) for _, expression in warnings()} | {kind.value for kind in _ALARMING}
    assert ADVICE.keys() - said == set()


def test_advice_names_runbooks_that_are_there() -> None:
    for advice in ADVICE.values():
        for word in advice.replace(",", " ").replace(";", " ").split():
            assert not word.startswith("docs/") or (ROOT / word).exists(), word
