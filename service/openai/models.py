"""Which version a model's name means: `ID` and `ID@live` the live one, `ID@base`, `ID@7` and `ID@alias`."""

from __future__ import annotations

from typing import Any

from ledger.errors import NotFound
from ledger.models import models
from ledger.records import ModelRecord
from ledger.versions import versions
from malmen_core.models.families import family_of
from service.context import Services
from service.failures import typed_problem
from service.generation import check_ready, known_model
from service.paging import every
from service.problems import FieldError, Problem

BASE, LIVE = "base", "live"
CLASSIFIER, CAUSAL = "sequence-classification", "causal-lm"
MODEL = FieldError("/model", "")


def task_of(model: ModelRecord) -> str:
    """What kind of model it is."""
    return family_of(model.architecture).task.name


def find_model(services: Services, name: str | None) -> tuple[ModelRecord, str]:
    """A registered model and the version that its name asks for; without a name, the only model.

    Raises:
        Problem: there is no such model, or several.
    """
    if name is None:
        known = _ready(services)
        if len(known) != 1:
            names = ", ".join(model.id for model in known) or "none"
            detail = f"Name the model: {names} are registered."
            raise Problem("invalid-request", detail, errors=[FieldError("/model", detail)])
        return known[0], LIVE
    ident, _, ref = name.partition("@")
    try:
        model = known_model(services, ident)
    except NotFound as error:
        raise typed_problem(error, [FieldError("/model", error.message)]) from error
    if not model.digest:
        check_ready(model)
    return model, ref or LIVE


def find_writer(services: Services, name: str) -> tuple[ModelRecord, str]:
    """As `find_model`, for models that write text.

    Raises:
        Problem: as `find_model`, or the model is a classifier.
    """
    model, ref = find_model(services, name)
    if task_of(model) == CLASSIFIER:
        detail = f"{model.id!r} is a classifier and writes no text. Ask it with /models/{model.id}/generate."
        raise Problem("invalid-request", detail, errors=[FieldError("/model", detail)])
    return model, ref


def list_names(services: Services) -> list[dict[str, Any]]:
    """Every model that is ready, with its base and each of its aliases."""
    found = []
    for model in _ready(services):
        found.append(_shown(model, model.id))
        found += [_shown(model, f"{model.id}@{ref}") for ref in (BASE, *sorted(model.aliases))]
    return found


def show(services: Services, name: str) -> dict[str, Any]:
    """One name of a model.

    Raises:
        Problem: there is no such model or version.
    """
    model, ref = find_model(services, name)
    try:
        if ref != BASE:
            number = int(ref) if ref.isascii() and ref.isdigit() else ref
            services.ledger.run(versions.number_of, model.id, number)
    except NotFound as error:
        raise typed_problem(error, [FieldError("/model", error.message)]) from error
    return _shown(model, name)


def _ready(services: Services) -> list[ModelRecord]:
    with services.ledger.transaction() as tx:
        return [model for model in every(tx, models.list_all) if model.status == "ready"]


def _shown(model: ModelRecord, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "errata",
        "root": model.id,
        "parent": None if name == model.id else model.id,
        "max_model_len": model.context_length,
    }
