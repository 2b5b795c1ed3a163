"""What the comparison of drafts makes of the times that engines tell."""

from tests.benchmarks.peers.drafts import decode_rate, equal_answers, table
from tests.benchmarks.peers.rounds import Figures


def test_the_rate_is_of_what_comes_behind_each_first_token() -> None:
    assert decode_rate([([1, 2, 3], [5.0, 5.5, 6.0]), ([4, 5], [9.0, 10.0])]) == 3 / 2
    assert decode_rate([([1], [5.0])]) == 0.0


def test_an_answer_is_equal_with_every_token() -> None:
    one = [([1, 2], [0.0, 1.0]), ([3], [0.0])]
    assert equal_answers(one, one) == 1.0
    assert equal_answers(one, [([1, 2], [5.0, 6.0]), ([4], [0.0])]) == 0.5


def test_the_ratio_is_of_the_same_round_and_who_cannot_draft_says_why() -> None:
    figures = Figures()
    for rate in (10.0, 20.0):
        figures.add("penstock", "chat", rate)
        figures.add("penstock prompt-lookup", "chat", 1.5 * rate)
    lines = table(figures, {("penstock prompt-lookup", "chat"): 1.0}, {"vllm n-gram": "it ended with 1"}).splitlines()
    assert "| chat | penstock prompt-lookup | 22.5 (15.0 to 30.0) | 1.50 | 100% |" in lines
    assert "| chat | vllm n-gram | it ended with 1 | | |" in lines
