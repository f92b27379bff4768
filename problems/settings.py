"""What the settings of all packages share: `ERRATA_*` variables, and secrets that may come from files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

PREFIX = "ERRATA_"


class UnreadableSecret(ValueError):
    """A file that a secret is to come from cannot be read."""


def secret(environ: Mapping[str, str], name: str) -> str | None:
    """A secret from its variable or, without it, from the file that `<name>_FILE` names.

    Raises:
        UnreadableSecret: the file cannot be read.
    """
    if name in environ or not (path := environ.get(f"{name}_FILE")):
        return environ.get(name)
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableSecret(f"{name}_FILE: {path} cannot be read") from error


def secrets(fields: Mapping[str, FieldInfo]) -> Iterable[str]:
    """The fields that may come from a file: secrets whose `_file` is no setting of its own."""
    for name, field in fields.items():
        if SecretStr in (field.annotation, *get_args(field.annotation)) and f"{name}_file" not in fields:
            yield name


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads secrets from the files that variables name."""

    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """One field's value, which is asked for by `__call__` only."""
        return secret(os.environ, f"{PREFIX}{field_name.upper()}"), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The secrets that there are."""
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(fields[name], name)[0] for name in secrets(fields)}
        return {name: value for name, value in found.items() if value is not None}


class ErrataSettings(BaseSettings):
    """Every field is the variable `ERRATA_<FIELD>`; a secret may come from the file of `ERRATA_<FIELD>_FILE`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over variables, and these over files."""
        return init_settings, env_settings, _SecretFiles(settings_cls)
