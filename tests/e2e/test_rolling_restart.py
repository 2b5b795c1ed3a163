"""`penstock rolling-restart` while streams run: every process is another one afterwards, and no reader noticed more
than a pause."""

from pathlib import Path

import pytest

from tests.chaos.rolling_load import print_run, rolling_restart

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]


async def test_streams_that_run_through_a_rolling_restart_lose_and_repeat_nothing(tmp_path: Path) -> None:
    run = await rolling_restart(tmp_path, num_streams=12)
    print_run(run)
    assert run.status == 0, run.said
    assert "7 restarted" in run.said
    assert run.verdict.num_violations == 0
    assert len(run.pauses) > 12, "streams were open while it ran"
