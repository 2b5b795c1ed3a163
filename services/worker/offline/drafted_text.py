"""What became of every token that was drafted, as text for a terminal. Knows the engine's events, not the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from rich.text import Text

from services.worker.engine.events import TokensSampled

TokenText = Callable[[int], str]


class Fate(Enum):
    PLAIN = auto()
    """Not drafted: a step without a draft brought it."""
    ACCEPTED = auto()
    REJECTED = auto()
    UNREAD = auto()
    """Drafted behind a token that did not stand, or behind the end: nobody asked whether it was right."""
    CORRECTED = auto()
    """The model's own, in a rejected one's place."""
    ADDED = auto()
    """The model's own, behind a draft that stood as a whole."""


MARKS = {
    Fate.PLAIN: ("", "", ""),
    Fate.ACCEPTED: ("<", ">", "green"),
    Fate.REJECTED: ("[-", "-]", "red strike"),
    Fate.UNREAD: ("[~", "~]", "dim strike"),
    Fate.CORRECTED: ("{+", "+}", "yellow"),
    Fate.ADDED: ("", "", "cyan"),
}
"""Around the text where there are no colours, and the colours. Marks go around a run of tokens of one fate."""
_LEGEND = {
    Fate.ACCEPTED: "drafted and accepted",
    Fate.REJECTED: "drafted and rejected",
    Fate.UNREAD: "drafted behind a rejected one",
    Fate.CORRECTED: "the model's own in its place",
    Fate.ADDED: "the model's own behind a draft that stood",
}


@dataclass(slots=True, kw_only=True)
class DraftTally:
    """Of one answer. `num_judged`: drafted tokens that the model had its say about."""

    num_tokens: int = 0
    num_steps: int = 0
    num_drafted: int = 0
    num_judged: int = 0
    num_accepted: int = 0

    def add(self, event: TokensSampled) -> None:
        length = len(event.draft_token_ids or ())
        self.num_tokens += len(event.token_ids)
        self.num_steps += 1
        self.num_drafted += length
        self.num_judged += min(event.num_accepted + 1, length)
        self.num_accepted += event.num_accepted

    def summary(self) -> str:
        if not self.num_drafted:
            return f"{self.num_tokens} tokens in {self.num_steps} steps, nothing was drafted"
        return (
            f"{self.num_tokens} tokens in {self.num_steps} steps; of {self.num_drafted} drafted tokens"
            f" {self.num_accepted} stood, {self.num_accepted / self.num_judged:.0%} of the {self.num_judged} looked at"
        )


def fates(event: TokensSampled) -> list[tuple[int, Fate]]:
    """Token ids in the order to show them: what stood, what did not, what the model said instead."""
    draft, num_accepted = event.draft_token_ids or [], event.num_accepted
    shown = [(token_id, Fate.ACCEPTED) for token_id in event.token_ids[:num_accepted]]
    own = event.token_ids[num_accepted:]
    wrong = draft[num_accepted:]
    if own and wrong:
        shown.append((wrong.pop(0), Fate.REJECTED))
    shown += [(token_id, Fate.UNREAD) for token_id in wrong]
    fate = Fate.PLAIN if not draft else Fate.CORRECTED if num_accepted < len(draft) else Fate.ADDED
    return shown + [(token_id, fate) for token_id in own]


def drafted_text(event: TokensSampled, token_text: TokenText, *, has_colours: bool) -> Text:
    """One step's tokens."""
    text = Text()
    pieces = [(token_text(token_id), fate) for token_id, fate in fates(event)]
    for index, (piece, fate) in enumerate(pieces):
        before, behind, style = MARKS[fate]
        if has_colours:
            text.append(piece, style)
            continue
        begins = index == 0 or pieces[index - 1][1] is not fate
        ends = index == len(pieces) - 1 or pieces[index + 1][1] is not fate
        text.append((before if begins else "") + piece + (behind if ends else ""))
    return text


def legend(*, has_colours: bool) -> Text:
    parts = Text()
    for fate, meaning in _LEGEND.items():
        before, behind, style = MARKS[fate]
        if parts:
            parts.append(", ")
        if has_colours:
            parts.append(meaning, style)
        elif before:
            parts.append(f"{before}{meaning}{behind}")
        else:
            parts.append(f"unmarked: {meaning}, or no draft at all")
    return parts
