"""Every setting of every package, with its meaning, default and present value."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from problems.settings import PREFIX, secrets

PACKAGES = ("ledger", "broker", "service", "worker", "errata")
SECRETS = re.compile(r"(KEY|SECRET|PASSWORD|TOKEN)$")
MASK = "********"


@dataclass(frozen=True)
class Setting:
    """One variable.

    Attributes:
        name: The variable, ``ERRATA_…``.
        packages: The packages that read it.
        meaning: What it does.
        default: As text; None if it must be given.
        value: From the environment, secrets masked; None when it is not set.
    """

    name: str
    packages: tuple[str, ...]
    meaning: str
    default: str | None
    value: str | None


def all_settings(environ: Mapping[str, str] | None = None) -> list[Setting]:
    """The settings of all packages, by name; a variable that two packages read is one setting.

    Args:
        environ: Where values are looked up; the process's environment by default.
    """
    values = os.environ if environ is None else environ
    found: dict[str, Setting] = {}
    for package in PACKAGES:
        for field_name, field in settings_class(package).model_fields.items():
            name = f"{PREFIX}{field_name.upper()}"
            if name in found:
                known = found[name]
                packages = (*known.packages, package)
                found[name] = Setting(name, packages, known.meaning, known.default, known.value)
            else:
                found[name] = _setting(name, package, field, values)
                if field_name in secrets(settings_class(package).model_fields):
                    meaning = f"File to read {name} from, where that is not set."
                    found[f"{name}_FILE"] = Setting(
                        f"{name}_FILE", (package,), meaning, "", values.get(f"{name}_FILE")
                    )
    return [found[name] for name in sorted(found)]


def _setting(name: str, package: str, field: FieldInfo, values: Mapping[str, str]) -> Setting:
    raw = values.get(name)
    value = None if raw is None else masked(name, raw)
    return Setting(name, (package,), field.description or "", _default(field), value)


def settings_class(package: str) -> type[BaseSettings]:
    """The one settings class of a package.

    Raises:
        LookupError: The package defines none, or several.
    """
    module = importlib.import_module(f"{package}.settings")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseSettings) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise LookupError(f"{package}.settings must define one settings class, has {len(classes)}")
    return classes[0]


def masked(name: str, value: str) -> str:
    """A value as it may be shown: no keys, and no password of an address."""
    if SECRETS.search(name):
        return MASK
    value = re.sub(r"([?&][^=&]*password=)[^&]*", rf"\1{MASK}", value, flags=re.IGNORECASE)
    return re.sub(r"(://[^/@:]*:).+@", rf"\1{MASK}@", value)


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    default: Any = field.get_default(call_default_factory=True)
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "" if default is None or default is PydanticUndefined else str(default)
