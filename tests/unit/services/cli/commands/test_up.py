"""From flags and environment to a plan; what the banner and the state file say."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from services.cli.commands.up import banner, install_stop_signals, make_plan, resolve_settings, run_stack, stack_state
from services.cli.console import CommandFailed
from services.cli.embedded.plan import Addresses, PoolPlan, StackPlan, worker_environment
from services.cli.embedded.stack import EmbeddedStack
from services.cli.settings import UpSettings


@pytest.fixture
def stack(tmp_path: Path) -> EmbeddedStack:
    """A stack that was never started, with the addresses it would have."""
    stopped = EmbeddedStack(StackPlan(data_dir=tmp_path, pools=(PoolPlan(name="p"),)))
    stopped.http_urls.append("http://127.0.0.1:8000")
    stopped.supervisor_urls.append("http://127.0.0.1:8001")
    stopped.addresses = Addresses(kafka="127.0.0.1:9092", redis="redis://127.0.0.1:6379/0", otlp_endpoint="http://o")
    return stopped


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_UP_WORKERS", "3")
    monkeypatch.setenv("PENSTOCK_UP_POOL", "from-environment")
    settings = resolve_settings(workers=5, pool=None, dtype=None)
    assert (settings.workers, settings.pool, settings.dtype) == ("5", "from-environment", "auto")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"workers": -1}, "workers"),
        ({"workers": "many"}, "workers"),
        ({"pool": "Not A Name"}, "pool"),
        ({"dtype": "float8"}, "dtype"),
        ({"http_port": 70_000}, "http_port"),
        ({"engine": "other"}, "engine"),
    ],
)
def test_a_wrong_value_names_its_setting(flags: dict[str, object], named: str) -> None:
    with pytest.raises(CommandFailed, match=rf"^setting {named}: ") as failure:
        resolve_settings(**flags)
    assert "--help" in str(failure.value.hint)


async def test_the_null_engine_needs_no_model() -> None:
    plan = await make_plan(UpSettings(engine="null", workers=2, pool="p"))
    (pool,) = plan.pools
    assert (pool.name, pool.workers, pool.model, pool.served_model_name) == ("p", 2, None, "null")
    assert plan.environment == {"PENSTOCK_GATEWAY_DEFAULT_POOL": "p"}


async def test_a_directory_is_served_under_its_own_name(tmp_path: Path) -> None:
    model = tmp_path / "My-Model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    plan = await make_plan(UpSettings(model=str(model), dtype="float32"))
    (pool,) = plan.pools
    assert (pool.model, pool.served_model_name, pool.dtype) == (model, "My-Model", "float32")


async def test_a_draft_model_is_found_as_a_model_is_and_told_to_the_workers(tmp_path: Path) -> None:
    for name in ("large", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    settings = UpSettings(model=str(tmp_path / "large"), speculation="draft-model", draft_model=str(tmp_path / "small"))
    (pool,) = (await make_plan(settings)).pools
    told = worker_environment(pool, index=0, total_workers=1)
    assert told["PENSTOCK_WORKER_SPECULATION"] == "draft-model"
    assert told["PENSTOCK_WORKER_DRAFT_MODEL"] == str(tmp_path / "small")
    with pytest.raises(CommandFailed, match="nowhere does not exist"):
        await make_plan(UpSettings(model=str(tmp_path / "large"), draft_model=str(tmp_path / "nowhere")))


async def test_servers_that_already_run_are_passed_on(tmp_path: Path) -> None:
    plan = await make_plan(UpSettings(engine="null", kafka="k:9092", redis="redis://r", data_dir=tmp_path))
    assert (plan.kafka, plan.redis, plan.data_dir) == ("k:9092", "redis://r", tmp_path)


async def test_a_second_stack_on_the_same_directory_is_refused(stack: EmbeddedStack, tmp_path: Path) -> None:
    stack_state(stack).write(tmp_path)
    with pytest.raises(CommandFailed, match=f"already runs .* {os.getpid()}"):
        await run_stack(UpSettings(engine="null", data_dir=tmp_path))


def test_the_state_says_where_everything_is(stack: EmbeddedStack, tmp_path: Path) -> None:
    state = stack_state(stack)
    assert (state.pid, state.http_url, state.kafka) == (os.getpid(), "http://127.0.0.1:8000", "127.0.0.1:9092")
    assert (state.pool, state.span_database) == ("p", str(tmp_path / "spans.sqlite"))


def test_the_banner_shows_every_address(stack: EmbeddedStack) -> None:
    with open(os.devnull, "w") as nowhere:
        console = Console(width=120, record=True, file=nowhere)
        console.print(banner(stack))
        text = console.export_text()
    for part in (
        "http://127.0.0.1:8000/v1",
        "127.0.0.1:9092",
        "redis://127.0.0.1:6379/0",
        "http://127.0.0.1:8001  (or",
        "Ctrl-C",
    ):
        assert part in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_asks_to_stop(number: signal.Signals) -> None:
    stop = install_stop_signals()
    os.kill(os.getpid(), number)
    async with asyncio.timeout(5):
        await stop.wait()
    for installed in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().remove_signal_handler(installed)


def test_a_span_of_workers_is_scaled_and_a_number_is_not() -> None:
    scaled, fixed = UpSettings(workers="1..4"), UpSettings(workers=3)
    assert (scaled.least_workers, scaled.most_workers, scaled.is_scaled) == (1, 4, True)
    assert (fixed.least_workers, fixed.most_workers, fixed.is_scaled) == (3, 3, False)


@pytest.mark.parametrize("workers", ["4..1", "x", "1..", "..4", "-1", "1..99"])
def test_a_span_of_workers_that_makes_no_sense_is_refused(workers: str) -> None:
    with pytest.raises(CommandFailed, match="workers"):
        resolve_settings(workers=workers)


async def test_the_supervisor_is_told_the_bounds() -> None:
    plan = await make_plan(UpSettings(workers="1..4", engine="null"))
    assert plan.environment["PENSTOCK_SUPERVISOR_SCALING"] == "default=1..4"
    assert plan.total_workers == 1
