from pathlib import Path

from services.worker.engine.checkpoints.fingerprint import take_fingerprint
from services.worker.engine.checkpoints.model_config import parse_model_config
from tests.fixtures.tiny_checkpoint import TINY_CONFIG

CONFIG = parse_model_config(TINY_CONFIG, source=Path("config.json"))


def fingerprint(*contents: bytes, folder: Path, prefix: str = "") -> str:
    files = []
    for index, content in enumerate(contents):
        file = folder / f"{prefix}{index}"
        file.write_bytes(content)
        files.append(file)
    return take_fingerprint(CONFIG, files)


def test_names_of_files_do_not_count(tmp_path: Path) -> None:
    assert fingerprint(b"abc", folder=tmp_path, prefix="x") == fingerprint(b"abc", folder=tmp_path, prefix="y")


def test_a_border_between_files_counts(tmp_path: Path) -> None:
    assert fingerprint(b"ab", b"c", folder=tmp_path) != fingerprint(b"a", b"bc", folder=tmp_path)


def test_size_and_every_region_of_a_large_file_count(tmp_path: Path) -> None:
    size = 4_000_000
    plain = bytes(size)
    seen = {fingerprint(plain, folder=tmp_path), fingerprint(plain + b"\0", folder=tmp_path)}
    for start in range(0, size, 500_000):
        changed = bytearray(plain)
        changed[start : start + 500_000] = b"\1" * 500_000
        seen.add(fingerprint(bytes(changed), folder=tmp_path))
    assert len(seen) == 10


def test_the_last_bytes_count(tmp_path: Path) -> None:
    plain = bytes(1_000_000)
    assert fingerprint(plain, folder=tmp_path) != fingerprint(plain[:-1] + b"\1", folder=tmp_path)
