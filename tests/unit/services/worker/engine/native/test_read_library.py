"""The native pass over memory reads every word."""

import pytest
import torch

from services.worker.engine.native.read_library import load_sum_words


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000, 8 * 64 + 5])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_it_is_the_sum_of_all_words(count: int, num_threads: int) -> None:
    sum_words = load_sum_words()
    if sum_words is None:
        pytest.skip("no native kernels here")
    words = torch.randint(-(2**62), 2**62, (count,), generator=torch.Generator().manual_seed(count))
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert sum_words(words) == sum(words.tolist()) % 2**64
    finally:
        torch.set_num_threads(before)


def test_half_a_word_is_refused() -> None:
    sum_words = load_sum_words()
    if sum_words is None:
        pytest.skip("no native kernels here")
    with pytest.raises(AssertionError, match="whole number"):
        sum_words(torch.zeros(3))
