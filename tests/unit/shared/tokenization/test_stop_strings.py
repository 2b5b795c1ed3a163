import pytest

from shared.tokenization.stop_strings import StopStrings


def run(pieces: list[str], *stop: str) -> tuple[list[str], str | None]:
    stops = StopStrings(stop)
    said = []
    for piece in pieces:
        said.append(stops.push(piece))
        if stops.matched is not None:
            return said, stops.matched
    return [*said, stops.flush()], None


def test_text_before_a_stop_string_is_kept_and_the_rest_is_cut() -> None:
    assert run(["one STOP two"], "STOP") == (["one "], "STOP")


def test_what_may_become_a_stop_string_is_held_back() -> None:
    assert run(["abS", "T", "O", "P"], "STOP") == (["ab", "", "", ""], "STOP")


def test_what_did_not_become_one_is_said_late() -> None:
    assert run(["abST", "x"], "STOP") == (["ab", "STx", ""], None)


def test_no_more_is_held_back_than_needed() -> None:
    assert run(["aaab"], "aab?")[0] == ["a", "aab"]


def test_what_is_held_at_the_end_is_said() -> None:
    assert run(["xST"], "STOP") == (["x", "ST"], None)


def test_the_first_to_be_complete_wins() -> None:
    assert run(["abcd"], "bcd", "c") == (["ab"], "c")


def test_of_two_complete_at_one_place_the_longer_wins() -> None:
    assert run(["abcd"], "cd", "bcd") == (["a"], "bcd")


def test_pieces_do_not_change_the_winner() -> None:
    whole, matched = run(["xabcd"], "bcd", "c")
    pieces, matched_in_pieces = run(list("xabcd"), "bcd", "c")
    assert ("".join(whole), matched) == ("".join(pieces), matched_in_pieces)


def test_the_earliest_of_several_occurrences_cuts() -> None:
    assert run(["a.b.c"], ".") == (["a"], ".")


def test_an_overlapping_beginning_is_not_lost() -> None:
    assert run(["aa", "ab"], "aab") == (["", "a"], "aab")


def test_a_stop_string_of_one_character_holds_nothing() -> None:
    assert run(["abc"], "x") == (["abc", ""], None)


@pytest.mark.parametrize("stop", ["\n\n", "<|end|>", "。", "👍🏽"])
def test_any_text_can_stop(stop: str) -> None:
    said, matched = run([*"before", *stop, "after"], stop)
    assert ("".join(said), matched) == ("before", stop)
