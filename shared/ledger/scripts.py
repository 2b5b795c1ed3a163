"""The ledger's Lua scripts: read from the files beside, each with the prelude before it. It runs nothing."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DIRECTORY = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    name: str
    source: bytes
    sha1: bytes


@cache
def load_script(name: str) -> Script:
    source = (_DIRECTORY / "prelude.lua").read_bytes() + (_DIRECTORY / f"{name}.lua").read_bytes()
    digest = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    return Script(name=name, source=source, sha1=digest)
