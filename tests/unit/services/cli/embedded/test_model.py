"""Which checkpoint a stack serves, and when the default one is imported."""

import re
from pathlib import Path

import pytest

from services.cli.console import CommandFailed
from services.cli.embedded import model as model_module
from services.cli.embedded.model import (
    DEFAULT_MODEL_NAME,
    import_model,
    quantize_model,
    resolve_model,
    resolve_quantized,
)


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Notes what would be imported, and makes the directory look as if it had been."""
    seen: list[tuple[str, Path]] = []

    async def note(source: str, directory: Path, *, keep_weights: bool = False) -> None:
        seen.append((source, directory))
        assert directory.name.endswith("-kept") is keep_weights
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(model_module, "import_model", note)
    return seen


async def test_the_default_model_is_imported_once(tmp_path: Path, imports: list[tuple[str, Path]]) -> None:
    first = await resolve_model("default", data_dir=tmp_path)
    second = await resolve_model("default", data_dir=tmp_path)
    directory = tmp_path / "models" / DEFAULT_MODEL_NAME
    assert first == second == (directory, DEFAULT_MODEL_NAME)
    assert imports == [("default", directory)]


async def test_a_gguf_file_is_imported_once_and_served_under_its_stem(
    tmp_path: Path, imports: list[tuple[str, Path]]
) -> None:
    file = tmp_path / "Model.Q4_1.gguf"
    file.touch()
    first = await resolve_model(str(file), data_dir=tmp_path)
    assert first == await resolve_model(str(file), data_dir=tmp_path)
    directory, name = first
    assert name == "Model.Q4_1"
    assert directory.parent == tmp_path / "models"
    assert imports == [(str(file), directory)]


async def test_a_gguf_file_that_changed_or_only_shares_its_name_is_imported_anew(
    tmp_path: Path, imports: list[tuple[str, Path]]
) -> None:
    (tmp_path / "other").mkdir()
    file, namesake = tmp_path / "model.gguf", tmp_path / "other" / "model.gguf"
    file.write_text("a")
    namesake.write_text("a")
    directories = [(await resolve_model(str(path), data_dir=tmp_path))[0] for path in (file, namesake)]
    file.write_text("changed")
    directories.append((await resolve_model(str(file), data_dir=tmp_path))[0])
    assert len(set(directories)) == len(imports) == 3


async def test_a_path_that_does_not_exist_says_what_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="does not exist") as failure:
        await resolve_model(str(tmp_path / "nothing"), data_dir=tmp_path)
    assert "GGUF" in str(failure.value.hint)


async def test_a_directory_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"no config\.json"):
        await resolve_model(str(tmp_path), data_dir=tmp_path)


async def test_an_import_that_fails_is_an_error_and_no_model(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="could not be imported"):
        await import_model(str(tmp_path / "missing.gguf"), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path, dict[str, str | None]]]:
    """Notes what would be quantized, and makes the directory look as if it had been."""
    seen: list[tuple[Path, Path, dict[str, str | None]]] = []

    async def note(source: Path, directory: Path, wanted: re.Match[str]) -> None:
        seen.append((source, directory, wanted.groupdict()))
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(model_module, "quantize_model", note)
    return seen


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("awq-int4", {"method": "awq", "bits": "4", "group": None, "inputs": None}),
        ("gptq-int2-g128", {"method": "gptq", "bits": "2", "group": "128", "inputs": None}),
        ("smoothquant-int8", {"method": "smoothquant", "bits": "8", "group": None, "inputs": None}),
        ("gptq-int8-g64-a8", {"method": "gptq", "bits": "8", "group": "64", "inputs": "8"}),
        ("fp8", {"method": "fp8", "bits": None, "group": None, "inputs": None}),
    ],
)
async def test_a_method_quantizes_the_model_once_and_the_worker_keeps_what_was_made(
    tmp_path: Path,
    imports: list[tuple[str, Path]],
    quantized: list[tuple[Path, Path, dict[str, str | None]]],
    name: str,
    wanted: dict[str, str | None],
) -> None:
    first = await resolve_quantized("default", name, data_dir=tmp_path)
    assert first == await resolve_quantized("default", name, data_dir=tmp_path)
    directory, served_name, load = first
    assert (served_name, load) == (DEFAULT_MODEL_NAME, "keep")
    assert quantized == [(tmp_path / "models" / DEFAULT_MODEL_NAME, directory, wanted)]
    assert len(imports) == 1
    other, _, _ = await resolve_quantized("default", "awq-int4-g32", data_dir=tmp_path)
    assert other != directory
    assert await resolve_quantized("default", f"{name}-head8", data_dir=tmp_path) == (
        directory,
        served_name,
        "keep-head8",
    )


@pytest.mark.parametrize("name", ["none", "rtn-int8", "rtn-int4-g64-a8", "awq-int3", "nonsense"])
async def test_what_names_no_method_is_left_to_the_worker(
    tmp_path: Path, imports: list[tuple[str, Path]], quantized: list[object], name: str
) -> None:
    found = await resolve_quantized("default", name, data_dir=tmp_path)
    assert found == (tmp_path / "models" / DEFAULT_MODEL_NAME, DEFAULT_MODEL_NAME, name)
    assert quantized == []


async def test_keep_imports_without_turning_weights_into_sixteen_bits(
    tmp_path: Path, imports: list[tuple[str, Path]]
) -> None:
    kept, name, load = await resolve_quantized("default", "keep", data_dir=tmp_path)
    assert await resolve_quantized("default", "keep-head8", data_dir=tmp_path) == (kept, name, "keep-head8")
    plain, _, _ = await resolve_quantized("default", "none", data_dir=tmp_path)
    assert (name, load) == (DEFAULT_MODEL_NAME, "keep")
    assert kept != plain
    assert [directory for _, directory in imports] == [kept, plain]


async def test_a_model_that_cannot_be_quantized_is_an_error(tmp_path: Path) -> None:
    match = re.fullmatch(r"(?P<method>\w+)-int(?P<bits>\d)-g(?P<group>\d+)(-a(?P<inputs>8))?", "awq-int4-g32")
    assert match is not None
    with pytest.raises(CommandFailed, match="could not be quantized"):
        await quantize_model(tmp_path / "missing", tmp_path / "out", match)
