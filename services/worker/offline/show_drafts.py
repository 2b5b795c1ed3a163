"""One answer with every draft in sight: which tokens were drafted, which stood, what the model said instead.

`python -P -m services.worker.offline.show_drafts --model DIR --speculation quantspec "..."`. The engine alone, in this
process: no Kafka, no stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.worker.engine.config import EngineConfig, Verifier
from services.worker.engine.engine import Engine
from services.worker.engine.events import ChoiceStart, Submit, TokensSampled
from services.worker.offline.drafted_text import DraftTally, drafted_text, legend
from shared.contracts.requests import ChatMessage
from shared.contracts.sampling import SamplingParameters
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    prompt: str
    max_tokens: int
    temperature: float
    seed: int


def ask(engine: Engine, tokenizer: Tokenizer, question: Question) -> Iterator[TokensSampled]:
    """What each step brings. Raises ValueError for what the engine refuses."""
    if tokenizer.has_chat_template:
        prompt = tokenizer.encode_chat([ChatMessage(role="user", content=question.prompt)])
    else:
        prompt = tokenizer.encode_prompt(question.prompt)
    engine.submit(
        Submit(
            request_id="shown",
            choices=[ChoiceStart(index=0, prompt_token_ids=prompt, seed=question.seed)],
            sampling=SamplingParameters(
                temperature=question.temperature, max_tokens=question.max_tokens, seed=question.seed
            ),
            eos_token_ids=list(tokenizer.eos_token_ids),
        )
    )
    while engine.has_work:
        result = engine.step()
        for refused in result.rejected:
            raise ValueError(refused.message)
        yield from result.tokens


def show(engine: Engine, tokenizer: Tokenizer, question: Question, console: Console) -> DraftTally:
    """Raises ValueError for what the engine refuses."""
    has_colours = console.color_system is not None
    tally = DraftTally()
    for event in ask(engine, tokenizer, question):
        tally.add(event)
        console.print(drafted_text(event, tokenizer.token_text, has_colours=has_colours), end="", soft_wrap=True)
    console.print()
    return tally


def _command(
    prompt: Annotated[str, typer.Argument(help="What to say to the model.")],
    model: Annotated[Path, typer.Option(help="Directory of a Hugging Face checkpoint with its tokenizer.")],
    speculation: Annotated[str, typer.Option(help="quantspec, prompt-lookup ...")] = "prompt-lookup",
    draft_model: Annotated[Path | None, typer.Option(help="Directory of a smaller model, for draft-model.")] = None,
    draft_tokens: Annotated[int, typer.Option(min=1, max=64, help="Drafted in every step.")] = 4,
    verifier: Annotated[Verifier, typer.Option(help="coupled or rejection.")] = Verifier.COUPLED,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer, with any draft.")] = 0,
) -> None:
    """Show what a draft guesses."""
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    try:
        tokenizer = Tokenizer.from_directory(model)
        engine = Engine.load(
            EngineConfig(
                model=model,
                dtype=dtype,
                speculation=speculation,
                draft_model=draft_model,
                verifier=verifier,
                max_draft_tokens=draft_tokens,
                fixed_draft_tokens=True,
                max_running_sequences=1,
            )
        )
        question = Question(prompt=prompt, max_tokens=max_tokens, temperature=temperature, seed=seed)
        tally = show(engine, tokenizer, question, console)
    except (TokenizerError, ValueError, OSError) as error:
        errors.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    errors.print(legend(has_colours=errors.color_system is not None), soft_wrap=True)
    errors.print(f"{speculation}, {draft_tokens} tokens a draft: {tally.summary()}", style="dim", soft_wrap=True)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
