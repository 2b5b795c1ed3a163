"""One choice's tokens and text against its log."""

import pytest

from services.worker.engine.events import LogprobEntry
from services.worker.running_choice import Echo, RunningChoice
from shared.contracts.errors import InvariantViolated
from shared.contracts.events import Chunk, FinishReason
from shared.tokenization.incremental_detokenizer import IncrementalDetokenizer
from tests.unit.services.worker.path_harness import TOKENIZER


def choice(*, stop: tuple[str, ...] = (), wants_logprobs: bool = False) -> RunningChoice:
    return RunningChoice(
        0,
        new_detokenizer=lambda: IncrementalDetokenizer(TOKENIZER, stop),
        token_text=TOKENIZER.token_text,
        has_stop_strings=bool(stop),
        wants_logprobs=wants_logprobs,
    )


def say(running: RunningChoice, text: str, finish_reason: str | None = None) -> bool:
    return running.accept(len(running.token_ids), TOKENIZER.encode(text), None, finish_reason)


def test_chunks_carry_tokens_text_and_the_end_once() -> None:
    running = choice()
    say(running, "hel")
    first = running.next_chunk()
    assert first is not None
    assert (first.position, first.text, first.finish_reason) == (0, "hel", None)
    assert running.next_chunk() is None
    say(running, "lo", "length")
    second = running.next_chunk()
    assert second is not None
    assert (second.position, second.text, second.finish_reason) == (3, "lo", FinishReason.LENGTH)
    assert not running.has_news


def test_half_a_character_is_held_back_until_it_is_whole() -> None:
    running = choice()
    first_byte, second_byte = TOKENIZER.encode("\u00e9")
    running.accept(0, [first_byte], None, None)
    chunk = running.next_chunk()
    assert chunk is not None
    assert (chunk.token_ids, chunk.text) == ((first_byte,), "")
    running.accept(1, [second_byte], None, None)
    chunk = running.next_chunk()
    assert chunk is not None
    assert chunk.text == "\u00e9"


def test_a_stop_string_across_tokens_cuts_the_text_and_counts_the_token_that_completed_it() -> None:
    running = choice(stop=("lo",))
    assert say(running, "hello there")
    assert running.finish_reason is FinishReason.STOP
    assert running.text == "hel"
    assert len(running.token_ids) == 5
    assert not say(running, "ignored")
    assert len(running.token_ids) == 5


def test_a_stop_string_completed_by_the_last_token_is_stop_and_needs_no_cancel() -> None:
    running = choice(stop=("lo",))
    assert not say(running, "hello", "length")
    assert running.finish_reason is FinishReason.STOP


def test_a_possible_stop_string_that_does_not_come_is_text_at_the_end() -> None:
    running = choice(stop=("lo",))
    say(running, "hel")
    chunk = running.next_chunk()
    assert chunk is not None
    assert chunk.text == "he"
    say(running, "p", "length")
    assert running.result().text == "help"


def test_tokens_from_the_wrong_position_are_our_bug() -> None:
    running = choice()
    with pytest.raises(InvariantViolated, match="at token 3"):
        running.accept(3, [1], None, None)


def test_logprobs_are_cut_with_the_tokens() -> None:
    running = choice(stop=("b",), wants_logprobs=True)
    entries = [LogprobEntry(logprob=-1.0, top_token_ids=[97], top_logprobs=[-2.0])] * 3
    running.accept(0, TOKENIZER.encode("abc"), entries, None)
    result = running.result()
    assert len(result.token_ids) == 2
    assert result.logprobs is not None
    assert [entry.text for entry in result.logprobs] == ["a", "b"]
    assert result.logprobs[0].top[0][2] == -2.0


def test_refilling_sends_again_exactly_what_the_log_lacks() -> None:
    running = choice()
    for part in ("one ", "two ", "three"):
        say(running, part)
        running.next_chunk()
    running.refill(4)
    chunk = running.next_chunk()
    assert chunk is not None
    assert (chunk.position, chunk.text) == (4, "two three")


def test_refilling_a_finished_choice_repeats_its_end() -> None:
    running = choice()
    say(running, "abc", "length")
    running.next_chunk()
    running.refill(3)
    chunk = running.next_chunk()
    assert chunk is not None
    assert (chunk.token_ids, chunk.text, chunk.finish_reason) == ((), "", FinishReason.LENGTH)


def test_a_log_ahead_of_us_is_our_bug() -> None:
    with pytest.raises(InvariantViolated, match="ahead"):
        choice().refill(1)


def _chunk(position: int, text: str, token_text: str | None = None) -> Chunk:
    tokens = tuple(TOKENIZER.encode(text if token_text is None else token_text))
    return Chunk(choice=0, position=position, token_ids=tokens, text=text)


def test_a_log_with_a_hole_is_refused() -> None:
    with pytest.raises(InvariantViolated, match="goes on at 5"):
        choice().resume([_chunk(0, "abc"), _chunk(5, "de")])


def test_a_log_whose_text_is_not_that_of_its_tokens_is_refused() -> None:
    with pytest.raises(InvariantViolated, match="logged text"):
        choice().resume([_chunk(0, "abc", token_text="abd")])


def test_a_resumed_choice_goes_on_where_the_log_ends() -> None:
    running = choice()
    running.resume([_chunk(0, "abc")])
    assert not running.has_news
    say(running, "d", "length")
    assert running.result().text == "abcd"


def test_a_choice_that_has_all_its_tokens_is_finished_without_the_engine() -> None:
    running = choice()
    running.resume([_chunk(0, "abc")])
    running.finish_if_at_end(max_tokens=3, end_token_ids=frozenset())
    assert running.finish_reason is FinishReason.LENGTH
    assert running.has_news


class TestEcho:
    PROMPT = "Once "

    def echoing(self) -> RunningChoice:
        return RunningChoice(
            0,
            new_detokenizer=lambda: IncrementalDetokenizer(TOKENIZER),
            token_text=TOKENIZER.token_text,
            has_stop_strings=False,
            wants_logprobs=True,
            echo=Echo(text=self.PROMPT, token_ids=TOKENIZER.encode(self.PROMPT)),
        )

    def accept(self, running: RunningChoice, text: str, finish_reason: str | None = None) -> None:
        tokens = TOKENIZER.encode(text)
        entry = LogprobEntry(logprob=-1.0, top_token_ids=[], top_logprobs=[])
        scores = [LogprobEntry(logprob=-2.0, top_token_ids=[65], top_logprobs=[-0.5])] * (len(self.PROMPT) - 1)
        running.accept(len(running.token_ids), tokens, [entry] * len(tokens), finish_reason, scores)

    def test_the_first_chunk_begins_with_the_prompt_and_its_scores(self) -> None:
        running = self.echoing()
        self.accept(running, "u")
        first = running.next_chunk()
        self.accept(running, "pon", "stop")
        second = running.next_chunk()
        assert first is not None
        assert second is not None
        assert (first.text, second.text) == ("Once u", "pon")
        assert first.prompt_logprobs is not None
        assert [one.logprob for one in first.prompt_logprobs] == [None, -2.0, -2.0, -2.0, -2.0]
        assert "".join(one.text for one in first.prompt_logprobs) == self.PROMPT
        assert second.prompt_logprobs is None
        assert running.result().text == "Once upon"
        assert running.result().prompt_logprobs == first.prompt_logprobs

    def test_a_choice_resumed_from_its_log_says_the_same(self) -> None:
        running, resumed = self.echoing(), self.echoing()
        self.accept(running, "up")
        chunk = running.next_chunk()
        assert chunk is not None
        resumed.resume([chunk])
        self.accept(running, "on", "length")
        self.accept(resumed, "on", "length")
        assert resumed.result() == running.result()
        rest = resumed.next_chunk()
        assert rest is not None
        assert (rest.text, rest.prompt_logprobs) == ("on", None)

    def test_a_ledger_that_lost_everything_gets_the_prompt_again(self) -> None:
        running = self.echoing()
        self.accept(running, "up")
        before = running.next_chunk()
        running.refill(0)
        assert running.next_chunk() == before

    def test_a_ledger_that_lost_a_part_gets_only_that(self) -> None:
        running = self.echoing()
        self.accept(running, "up")
        running.next_chunk()
        running.refill(1)
        chunk = running.next_chunk()
        assert chunk is not None
        assert (chunk.text, chunk.prompt_logprobs) == ("p", None)
