"""A model that drafts for itself: its weights are fitted once, and what it drafts changes no token."""

from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.config import EngineConfig, EngineRefused
from services.worker.engine.engine import Engine
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

METHODS = ["quantspec", "int8-self"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def load(checkpoint: Path, **changes: Any) -> Engine:
    settings = {"model": checkpoint, "num_kv_blocks": 256, "fixed_draft_tokens": True, "max_draft_tokens": 4}
    return Engine.load(EngineConfig(**{**settings, **changes}))


def answer(engine: Engine, **changes: Any) -> Told:
    prompts = {"short": [5], "long": [7 * place % 250 for place in range(90)], "middle": list(range(40))}
    submissions = [
        make_submit(name, prompt, n=2, seed=place, **{"max_tokens": 20, "temperature": float(place % 2), **changes})
        for place, (name, prompt) in enumerate(prompts.items())
    ]
    return drive(engine, *submissions)


def drafted(told: Told) -> tuple[int, int]:
    return sum(one.num_drafted for one in told.statistics), sum(one.num_accepted for one in told.statistics)


@pytest.mark.parametrize("kv_cache", ["16bit", "int8", "int4"])
@pytest.mark.parametrize("method", METHODS)
def test_what_it_drafts_changes_no_token(checkpoint: Path, method: str, kv_cache: str) -> None:
    expected = answer(load(checkpoint, kv_cache=kv_cache))
    told = answer(load(checkpoint, kv_cache=kv_cache, speculation=method))
    assert told.tokens == expected.tokens
    num_drafted, num_accepted = drafted(told)
    assert num_drafted > 50
    # Upper halves of INT8 keys are coarse where no channel has a middle of its own, as with random weights.
    assert num_accepted > num_drafted // (5 if kv_cache == "int8" else 4), "it is the same model, only rounded"


def test_a_draft_of_eight_bits_is_nearer_than_one_of_six(checkpoint: Path) -> None:
    shares = []
    for method in METHODS:
        num_drafted, num_accepted = drafted(answer(load(checkpoint, speculation=method), temperature=1.0))
        shares.append(num_accepted / num_drafted)
    assert shares[0] < shares[1]


def test_it_is_fitted_once_and_the_same_again(tmp_path: Path) -> None:
    first, second = tiny_checkpoint(tmp_path / "first"), tiny_checkpoint(tmp_path / "second")
    load(first, speculation="quantspec")
    load(second, speculation="quantspec", num_kv_blocks=100)  # the text does not fit it at once
    (file,) = (first / "penstock-drafts").iterdir()
    assert file.read_bytes() == (second / "penstock-drafts" / file.name).read_bytes()
    written = file.stat().st_mtime_ns
    load(first, speculation="quantspec")
    assert file.stat().st_mtime_ns == written
    file.write_bytes(b"torn")
    load(first, speculation="quantspec")
    assert file.read_bytes() == (second / "penstock-drafts" / file.name).read_bytes()


def test_a_stream_goes_on_where_another_worker_with_another_draft_was(checkpoint: Path) -> None:
    prompt = [3, 1, 4, 1, 5]
    whole = drive(load(checkpoint), make_submit("a", prompt, seed=9, temperature=1.0, max_tokens=24)).tokens["a", 0]
    engine = load(checkpoint, speculation="quantspec")
    engine.submit(make_submit("a", prompt, seed=9, temperature=1.0, max_tokens=24))
    told = Told()
    while len(told.tokens.get(("a", 0), [])) < 10:
        told.step(engine)
    begun = told.tokens["a", 0]
    resumed = make_submit("a", prompt, seed=9, temperature=1.0, max_tokens=24, outputs=begun)
    rest = drive(load(checkpoint, speculation="int8-self"), resumed).tokens["a", 0]
    assert begun + rest == whole


def test_with_preemptions_and_little_room(checkpoint: Path) -> None:
    expected = answer(load(checkpoint))
    told = answer(load(checkpoint, num_kv_blocks=14, speculation="quantspec"))
    assert told.tokens == expected.tokens
    assert told.statistics[-1].num_preemptions_total > 0


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_quantized_is_refused_by_name(tmp_path: Path, method: str) -> None:
    write_tiny_checkpoint(tmp_path / "odd", config={"hidden_size": 36, "num_attention_heads": 2, "head_dim": 18})
    with pytest.raises(EngineRefused, match=method):
        load(tmp_path / "odd", speculation=method)
