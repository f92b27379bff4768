"""What differs between two versions, on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.schemas.base import Paged, PageQuery
from service.schemas.generate import VersionName
from service.schemas.models import VersionView
from service.schemas.touching import HeldFact


class ChangesQuery(PageQuery):
    """The parameters of `GET …/changes`."""

    since: VersionName | None = Field(
        None, description="Number, alias or `base`; by default the version's parent."
    )


class Change(HeldFact):
    """A fact that one of two versions holds and the other does not."""

    change: Literal["added", "removed"] = Field(description="Since the other version.")


class Changes(Paged[Change]):
    """Two versions with their reports, and one page of the facts that differ, by edit set and position."""

    model: str
    version: VersionView
    since: VersionView
