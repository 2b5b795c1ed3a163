"""How the command line speaks: one console for answers, one for troubles, one way to give up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class CommandFailed(Exception):
    """What a command could not do, in one sentence, and what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def give_up(message: str, *, hint: str | None = None, code: int = 1) -> NoReturn:
    err.print(f"[bold red]error[/] {escape(message)}", soft_wrap=True)
    if hint:
        err.print(f"[dim]hint[/]  {escape(hint)}", soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def waiting(console: Console, first: str) -> Iterator[Callable[[str], None]]:
    """A moving bar, the time it has taken, and what is being waited for; yields how to say what comes next."""
    with Progress(
        BarColumn(bar_width=24, pulse_style="cyan"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.description}[/]"),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task(first, total=None)
        yield lambda text: progress.update(task, description=escape(text))


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show a `CommandFailed` as a sentence instead of a traceback."""
    try:
        yield
    except CommandFailed as failure:
        give_up(failure.message, hint=failure.hint)
