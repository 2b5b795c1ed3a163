"""Every verb's script is found, with the prelude before it, under the name Redis will know."""

import hashlib
from pathlib import Path

import pytest

import shared.ledger.scripts as scripts
from shared.ledger.scripts import load_script

_NAMES = sorted(
    path.stem for path in (Path(scripts.__file__).parent / "scripts").glob("*.lua") if path.stem != "prelude"
)


@pytest.mark.parametrize("name", _NAMES)
def test_a_script_is_the_prelude_and_its_verb(name: str) -> None:
    script = load_script(name)
    assert script.source.startswith(b"-- Put before every verb")
    assert script.source.count(b"-- ARGV: prefix") == 1
    assert script.sha1 == hashlib.sha1(script.source).hexdigest().encode()


def test_scripts_differ_from_each_other() -> None:
    assert len({load_script(name).sha1 for name in _NAMES}) == len(_NAMES) >= 12


def test_an_unknown_script_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        load_script("no such verb")
