"""How the command line speaks."""

import io

import pytest
import typer
from rich.console import Console

from services.cli.console import CommandFailed, give_up, plain_errors, waiting


def test_giving_up_prints_sentence_and_hint_and_ends_with_the_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit) as ending:
        give_up("the pump is off", hint="switch it on", code=3)
    assert ending.value.exit_code == 3
    printed = capsys.readouterr().err
    assert "error the pump is off" in printed
    assert "hint  switch it on" in printed


def test_a_long_message_stays_on_one_line_so_that_it_can_be_searched(capsys: pytest.CaptureFixture[str]) -> None:
    message = "word " * 100 + "end"
    with pytest.raises(typer.Exit):
        give_up(message)
    assert message in capsys.readouterr().err


def test_brackets_in_a_message_are_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        give_up("topic[3] is [red]missing[/]")
    assert "topic[3] is [red]missing[/]" in capsys.readouterr().err


def test_a_failed_command_is_a_sentence_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ending, plain_errors():
        raise CommandFailed("no stack runs", hint="start one")
    assert ending.value.exit_code == 1
    assert "no stack runs" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), plain_errors():
        _ = 1 / 0


def test_waiting_says_what_for_and_leaves_nothing_on_the_screen() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with waiting(console, "starting") as report:
        report("loading [1/2]")
    assert "loading [1/2]" in screen.getvalue()
    assert screen.getvalue().rstrip().endswith("\x1b[2K") or "\x1b[1A" in screen.getvalue()
