"""Every token of a step is shown once: what stood, what did not, what the model said in its place."""

import pytest

from services.worker.engine.events import TokensSampled
from services.worker.offline.drafted_text import DraftTally, Fate, drafted_text, fates, legend


def event(token_ids: list[int], draft: list[int] | None, num_accepted: int = 0) -> TokensSampled:
    return TokensSampled(
        request_id="a",
        choice=0,
        position=0,
        token_ids=token_ids,
        draft_token_ids=draft,
        num_accepted=num_accepted,
    )


@pytest.mark.parametrize(
    ("token_ids", "draft", "num_accepted", "shown"),
    [
        ([7], None, 0, [(7, Fate.PLAIN)]),
        ([1, 2, 3], [1, 2], 2, [(1, Fate.ACCEPTED), (2, Fate.ACCEPTED), (3, Fate.ADDED)]),
        (
            [1, 9],
            [1, 2, 3],
            1,
            [(1, Fate.ACCEPTED), (2, Fate.REJECTED), (3, Fate.UNREAD), (9, Fate.CORRECTED)],
        ),
        ([9], [1], 0, [(1, Fate.REJECTED), (9, Fate.CORRECTED)]),
        # The second was the answer's last: nobody looked at the third.
        ([1, 2], [1, 2, 3], 2, [(1, Fate.ACCEPTED), (2, Fate.ACCEPTED), (3, Fate.UNREAD)]),
    ],
)
def test_what_became_of_each_token(
    token_ids: list[int], draft: list[int] | None, num_accepted: int, shown: list[tuple[int, Fate]]
) -> None:
    assert fates(event(token_ids, draft, num_accepted)) == shown


def test_without_colours_runs_of_one_fate_stand_between_marks() -> None:
    text = drafted_text(event([1, 2, 9], [1, 2, 3, 4, 5], 2), " {}".format, has_colours=False)
    assert text.plain == "< 1 2>[- 3-][~ 4 5~]{+ 9+}"
    assert drafted_text(event([7], None), str, has_colours=False).plain == "7"


def test_with_colours_there_is_nothing_but_the_tokens() -> None:
    text = drafted_text(event([1, 9], [1, 3], 1), str, has_colours=True)
    assert text.plain == "139"
    assert [span.style for span in text.spans] == ["green", "red strike", "yellow"]


@pytest.mark.parametrize("has_colours", [True, False])
def test_the_legend_explains_what_a_draft_can_come_to(has_colours: bool) -> None:
    text = legend(has_colours=has_colours).plain
    assert "drafted and accepted" in text
    assert ("[-drafted and rejected-]" in text) != has_colours


def test_the_sum_counts_only_what_was_looked_at() -> None:
    tally = DraftTally()
    for one in (event([7], None), event([1, 9], [1, 2, 3], 1), event([1, 2, 3], [1, 2], 2)):
        tally.add(one)
    assert tally.summary() == "6 tokens in 3 steps; of 5 drafted tokens 3 stood, 75% of the 4 looked at"
    silent = DraftTally()
    silent.add(event([7], None))
    assert silent.summary() == "1 tokens in 1 steps, nothing was drafted"
