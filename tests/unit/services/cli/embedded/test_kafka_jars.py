"""Where the jars come from: the remembered class path, unless a jar of it is gone."""

import json
from pathlib import Path

import pytest

from services.cli.embedded import kafka_jars
from services.cli.embedded.kafka_jars import COORDINATES, KafkaJarsUnavailable, kafka_class_path


@pytest.fixture
def jars(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "a.jar", tmp_path / "b.jar"]
    for jar in found:
        jar.write_bytes(b"jar")
    return found


@pytest.fixture
def resolutions(jars: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    asked: list[object] = []

    def resolve(progress: object) -> list[Path]:
        asked.append(progress)
        return jars

    monkeypatch.setattr(kafka_jars, "_resolve", resolve)
    return asked


def test_a_class_path_is_resolved_once_and_then_remembered(
    tmp_path: Path, jars: list[Path], resolutions: list[object]
) -> None:
    said: list[str] = []
    for _ in range(3):
        assert kafka_class_path(cache_directory=tmp_path / "cache", progress=said.append) == jars
    assert len(resolutions) == 1
    assert len(said) == 1


def test_a_missing_jar_makes_it_resolve_again(tmp_path: Path, jars: list[Path], resolutions: list[object]) -> None:
    kafka_class_path(cache_directory=tmp_path)
    jars[1].unlink()
    kafka_class_path(cache_directory=tmp_path)
    assert len(resolutions) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", json.dumps(["/no/such.jar"])])
def test_a_damaged_memory_makes_it_resolve_again(
    tmp_path: Path, jars: list[Path], resolutions: list[object], damage: str
) -> None:
    kafka_class_path(cache_directory=tmp_path)
    (remembered,) = tmp_path.glob("kafka-class-path-*.json")
    remembered.write_text(damage)
    assert kafka_class_path(cache_directory=tmp_path) == jars
    assert len(resolutions) == 2


def test_another_kafka_version_has_another_memory(
    tmp_path: Path, resolutions: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka_class_path(cache_directory=tmp_path)
    monkeypatch.setattr(kafka_jars, "COORDINATES", (*COORDINATES, "one:more:1"))
    kafka_class_path(cache_directory=tmp_path)
    assert len(resolutions) == 2


def test_every_coordinate_is_pinned() -> None:
    assert all(len(coordinate.split(":")) == 3 for coordinate in COORDINATES)
    assert len(set(COORDINATES)) == len(COORDINATES)


def test_jars_that_cannot_be_fetched_are_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jgo = pytest.importorskip("jgo")

    def build(*_: object, **__: object) -> None:
        raise RuntimeError("offline")

    monkeypatch.setattr(jgo, "build", build)
    with pytest.raises(KafkaJarsUnavailable, match="offline"):
        kafka_class_path(cache_directory=tmp_path)
