"""Which checkpoint a stack serves, and when the default one is imported."""

from pathlib import Path

import pytest

from services.cli.console import CommandFailed
from services.cli.embedded import model as model_module
from services.cli.embedded.model import DEFAULT_MODEL_NAME, import_model, resolve_model


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Notes what would be imported, and makes the directory look as if it had been."""
    seen: list[tuple[str, Path]] = []

    async def note(source: str, directory: Path) -> None:
        seen.append((source, directory))
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
