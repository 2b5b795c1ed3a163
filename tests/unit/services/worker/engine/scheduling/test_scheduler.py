"""What one step is made of. Arbitrary histories are the property test's."""

import pytest

from services.worker.engine.batch import SampledToken, ScheduledBatch
from services.worker.engine.config import SchedulingPolicy
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.scheduling.scheduler import Scheduler
from services.worker.engine.sequence import Sequence, SequenceState
from tests.engine_driver import make_sequence


def make_scheduler(
    *,
    num_blocks: int = 100,
    budget: int = 16,
    places: int = 8,
    policy: SchedulingPolicy = SchedulingPolicy.CONTINUOUS,
    windows: tuple[int | None, ...] = (None,),
) -> Scheduler:
    geometry = CacheGeometry(block_size_tokens=4, max_step_tokens=budget, windows=windows)
    cache = PagedCache(geometry, num_blocks=num_blocks, enable_prefix_cache=True)
    return Scheduler(cache, max_tokens_per_step=budget, max_running_sequences=places, policy=policy)


def step(scheduler: Scheduler) -> ScheduledBatch:
    batch = scheduler.schedule()
    tokens = [SampledToken(sequence=s, token_id=7) for item in batch.items for s in item.samplers]
    scheduler.complete(batch, tokens)
    scheduler.check_integrity()
    return batch


def sizes(batch: ScheduledBatch) -> dict[int, int]:
    return {id(item.sequence): item.num_tokens for item in batch.items}


def prompt(start: int, length: int) -> list[int]:
    return list(range(start, start + length))


def test_a_long_prompt_takes_what_the_decodes_leave_and_samples_at_its_end_only() -> None:
    scheduler = make_scheduler()
    short, long = make_sequence(prompt(0, 3)), make_sequence(prompt(100, 30))
    scheduler.add(short)
    step(scheduler)
    scheduler.add(long)
    batch = step(scheduler)
    assert sizes(batch) == {id(short): 1, id(long): 15}
    assert [item.samplers for item in batch.items] == [(short,), ()]
    assert (batch.num_decode_tokens, batch.num_prefill_tokens) == (1, 15)
    batch = step(scheduler)
    assert sizes(batch) == {id(short): 1, id(long): 15}
    assert batch.items[1].samplers == (long,)
    assert long.token_ids[-1] == 7


def test_a_decode_that_comes_later_in_order_keeps_its_token() -> None:
    scheduler = make_scheduler()
    late, early = make_sequence(prompt(0, 3), order=(1, 0, 0, 0)), make_sequence(prompt(100, 40))
    scheduler.add(late)
    step(scheduler)
    scheduler.add(early)
    step(scheduler)
    assert sizes(step(scheduler)) == {id(late): 1, id(early): 15}


def test_without_blocks_the_last_in_order_is_preempted_and_comes_back() -> None:
    scheduler = make_scheduler(num_blocks=4, budget=32)
    first, last = make_sequence(prompt(0, 8)), make_sequence(prompt(50, 7))
    scheduler.add(first)
    scheduler.add(last)
    assert step(scheduler).preempted == []
    batch = step(scheduler)
    assert batch.preempted == [last]
    assert sizes(batch) == {id(first): 1}
    assert last.state is SequenceState.WAITING
    assert last.block_tables == []
    assert last.request.num_preemptions == scheduler.num_preemptions == 1
    scheduler.cancel(first)
    step(scheduler)
    assert last.state is SequenceState.RUNNING


def test_admission_leaves_room_for_prompts_that_are_only_partly_computed() -> None:
    scheduler = make_scheduler(num_blocks=6, budget=8)
    long, other = make_sequence(prompt(0, 20)), make_sequence(prompt(50, 8))
    scheduler.add(long)
    scheduler.add(other)
    step(scheduler)
    assert scheduler.running == [long]


@pytest.mark.parametrize(("num_tokens", "is_admitted"), [(4 * 8, True), (4 * 8 + 1, False)])
def test_admission_leaves_one_block_of_a_hundred_free(num_tokens: int, is_admitted: bool) -> None:
    """Ten blocks are free of two hundred, and the watermark is two."""
    scheduler = make_scheduler(num_blocks=200, budget=1_000)
    scheduler.add(make_sequence(prompt(0, 4 * 190 - 1)))
    step(scheduler)
    second = make_sequence(prompt(5_000, num_tokens))
    scheduler.add(second)
    batch = scheduler.schedule()
    assert any(item.sequence is second for item in batch.items) == is_admitted


def test_who_runs_alone_may_have_every_block() -> None:
    scheduler = make_scheduler(num_blocks=200, budget=1_000)
    scheduler.add(make_sequence(prompt(0, 4 * 200)))
    assert step(scheduler).num_tokens == 800


def test_static_batches_admit_nobody_until_all_have_ended() -> None:
    scheduler = make_scheduler(policy=SchedulingPolicy.STATIC)
    first, second = make_sequence(prompt(0, 3)), make_sequence(prompt(9, 3))
    scheduler.add(first)
    step(scheduler)
    scheduler.add(second)
    assert sizes(step(scheduler)) == {id(first): 1}
    scheduler.finish(first)
    assert sizes(step(scheduler)) == {id(second): 3}


def leader_with_followers(num_followers: int) -> tuple[Sequence, list[Sequence]]:
    leader = make_sequence(prompt(0, 6))
    leader.followers = [
        make_sequence(prompt(0, 6), request=leader.request, choice=choice + 1) for choice in range(num_followers)
    ]
    return leader, list(leader.followers)


def test_followers_start_where_the_shared_prompt_ends() -> None:
    scheduler = make_scheduler(budget=8)
    leader, followers = leader_with_followers(2)
    scheduler.add(leader)
    assert scheduler.num_waiting == 3
    batch = step(scheduler)
    assert batch.items[0].samplers == (leader, *followers)
    assert batch.num_tokens == 6
    assert scheduler.cache.pool.num_used == 2
    assert len(step(scheduler).block_copies) == 2


def test_followers_without_a_place_wait_for_one() -> None:
    scheduler = make_scheduler(places=2)
    leader, followers = leader_with_followers(2)
    scheduler.add(leader)
    assert step(scheduler).items[0].samplers == (leader, followers[0])
    scheduler.finish(leader)
    step(scheduler)
    assert followers[1].state is SequenceState.RUNNING


def test_followers_wait_where_only_the_watermark_is_left() -> None:
    """Two hundred blocks, two of them the watermark's: a fork would have to copy its last block at once."""
    for num_prompt_tokens, num_samplers in ((4 * 196 + 1, 2), (4 * 197 + 1, 1)):
        scheduler = make_scheduler(num_blocks=200, budget=1_000)
        leader = make_sequence(prompt(0, num_prompt_tokens))
        leader.followers = [make_sequence(prompt(0, num_prompt_tokens), request=leader.request, choice=1)]
        scheduler.add(leader)
        assert len(step(scheduler).items[0].samplers) == num_samplers


def test_a_cancelled_leader_hands_its_followers_on() -> None:
    scheduler = make_scheduler(budget=8)
    leader, followers = leader_with_followers(2)
    scheduler.add(leader)
    scheduler.cancel(followers[1])
    scheduler.cancel(leader)
    assert followers[0].state is SequenceState.WAITING
    assert step(scheduler).items[0].samplers == (followers[0],)


def test_a_budget_below_the_number_of_places_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens_per_step"):
        make_scheduler(budget=4, places=5)


def test_running_stays_in_order_though_admission_ended_early() -> None:
    """It did not, and then the first in order was preempted for the last (found by the state machine)."""
    scheduler = make_scheduler(budget=8)
    late = make_sequence(prompt(0, 3), order=(0, 5, 0, 0))
    scheduler.add(late)
    step(scheduler)
    early, next_one = make_sequence(prompt(20, 7)), make_sequence(prompt(40, 7))
    scheduler.add(early)
    scheduler.add(next_one)
    step(scheduler)
    assert scheduler.running == [early, late]


BULK, INTERACTIVE = (1, 0, 0, 0), (0, 0, 0, 0)


def test_a_better_lane_takes_the_place_of_the_last_of_a_worse_one() -> None:
    scheduler = make_scheduler(places=2)
    bulk = [make_sequence(prompt(20 * index, 3), order=BULK) for index in range(2)]
    for sequence in bulk:
        scheduler.add(sequence)
    step(scheduler)
    interactive = make_sequence(prompt(90, 3), order=INTERACTIVE)
    scheduler.add(interactive)
    batch = step(scheduler)
    assert batch.preempted == [bulk[1]]
    assert sizes(batch) == {id(interactive): 3, id(bulk[0]): 1}


def test_a_better_priority_in_the_same_lane_waits_for_a_place() -> None:
    scheduler = make_scheduler(places=1)
    first = make_sequence(prompt(0, 3), order=(0, 0, 0, 0))
    scheduler.add(first)
    step(scheduler)
    scheduler.add(make_sequence(prompt(90, 3), order=(0, -5, 0, 0)))
    assert step(scheduler).preempted == []


def test_nobody_gives_way_to_what_would_not_fit_even_then() -> None:
    scheduler = make_scheduler(num_blocks=8, budget=32)
    interactive, bulk = make_sequence(prompt(0, 12)), make_sequence(prompt(50, 8), order=BULK)
    scheduler.add(interactive)
    scheduler.add(bulk)
    step(scheduler)
    scheduler.add(make_sequence(prompt(90, 24), order=INTERACTIVE))
    assert step(scheduler).preempted == []


def test_a_long_prefill_of_a_worse_lane_leaves_the_budget_to_a_better_one() -> None:
    scheduler = make_scheduler(budget=16)
    bulk = make_sequence(prompt(0, 100), order=BULK)
    scheduler.add(bulk)
    step(scheduler)
    interactive = make_sequence(prompt(200, 10), order=INTERACTIVE)
    scheduler.add(interactive)
    assert sizes(step(scheduler)) == {id(bulk): 6, id(interactive): 10}


def test_of_two_tenants_the_one_with_two_requests_is_not_shut_out_by_the_one_with_many() -> None:
    scheduler = make_scheduler(places=1)
    greedy = [make_sequence(prompt(10 * index, 3), salt="greedy", max_output_tokens=1) for index in range(5)]
    modest = [make_sequence(prompt(10 * index, 3), salt="modest", max_output_tokens=1) for index in range(2)]
    for sequence in (*greedy, *modest):
        scheduler.add(sequence)
    served = []
    while scheduler.has_work:
        sampler = step(scheduler).items[0].sequence
        served.append(sampler.tenant)
        scheduler.finish(sampler)
    assert served == ["greedy", "modest", "greedy", "modest", "greedy", "greedy", "greedy"]


def test_a_sequence_longer_than_the_whole_cache_runs_where_every_layer_slides() -> None:
    scheduler = make_scheduler(num_blocks=7, budget=8, windows=(10,))
    long = make_sequence(prompt(0, 90), max_output_tokens=30)
    scheduler.add(long)
    while scheduler.has_work:
        step(scheduler)
        if long.finish_reason() is not None:
            scheduler.finish(long)
    assert (long.num_tokens, scheduler.num_preemptions) == (120, 0)


def test_sliding_layers_leave_blocks_for_more_sequences() -> None:
    """Thirteen blocks of four tokens: one sequence of 28 with a second's prompt waiting, or all four in windows."""
    places = {}
    for windows in ((None,), (4,)):
        scheduler = make_scheduler(num_blocks=13, budget=4, places=4, windows=windows)
        for start in range(4):
            scheduler.add(make_sequence(prompt(100 * start, 20), max_output_tokens=40))
        for _ in range(30):
            step(scheduler)
        places[windows] = len(scheduler.running)
    assert places == {(None,): 1, (4,): 4}
