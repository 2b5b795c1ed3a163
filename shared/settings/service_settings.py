"""How a service reads its settings: from the environment, once, in `__main__`, strictly.

pydantic-settings silently ignores an environment variable that matches no field; a misspelt setting would then be
a default in disguise. So every `PENSTOCK_` variable in the environment must be one we know, else the start fails
with the nearest right name. Scopes (`PENSTOCK_GATEWAY_`, `PENSTOCK_KAFKA_`, ...) let services of one machine share
an environment: a service checks the names within the scopes it reads, and refuses scopes that nobody has.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "PENSTOCK_"
MACHINE_WIDE = ("PENSTOCK_CACHE",)
"""Not a setting of any service: where this machine keeps what is compiled for it."""
SCOPES = ("GATEWAY", "WORKER", "SUPERVISOR", "UP", "KAFKA", "REDIS", "TELEMETRY", "TOPICS", "CLI", "SLO")


class UnknownSetting(ValueError):
    """A `PENSTOCK_` variable that nothing reads."""


class ScopedSettings(BaseSettings):
    """Base of every settings class: frozen, no unknown fields. Subclasses set `env_prefix` by `scoped()`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")


def scoped(scope: str) -> SettingsConfigDict:
    """The configuration of a settings class that reads `PENSTOCK_<SCOPE>_*`."""
    return SettingsConfigDict(frozen=True, extra="forbid", env_prefix=f"{PREFIX}{scope}_")


def variable_names(*settings: type[BaseSettings]) -> dict[str, Any]:
    """Every environment variable these classes read, with its field."""
    return {
        f"{cls.model_config.get('env_prefix', '')}{name}".upper(): field
        for cls in settings
        for name, field in cls.model_fields.items()
    }


def reject_unknown_variables(environment: Mapping[str, str], *settings: type[BaseSettings]) -> None:
    """Raise `UnknownSetting` for a `PENSTOCK_` variable that is misspelt.

    Names within the scopes of `settings` must be theirs; names of other known scopes belong to other services.
    """
    known = variable_names(*settings)
    own_scopes = tuple(str(cls.model_config.get("env_prefix", "")) for cls in settings)
    foreign_scopes = tuple(f"{PREFIX}{scope}_" for scope in SCOPES if f"{PREFIX}{scope}_" not in own_scopes)
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known or name in MACHINE_WIDE:
            continue
        if name.startswith(foreign_scopes):
            continue
        raise UnknownSetting(_complaint(name, known))


def _complaint(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"unknown setting {name}{hint}"
