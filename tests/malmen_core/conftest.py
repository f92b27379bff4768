"""Bases that all tests of the core share: immutable, so one of each will do."""

from __future__ import annotations

import pytest
from hypothesis import settings

from malmen_core.editing.editor import Editor
from malmen_core.models.base import BaseModel
from tests.malmen_core.support import tiny_base, tiny_editor
from tests.tiny_tasks import save_tiny_task

settings.register_profile("core", settings(), deadline=None, database=None, max_examples=30)
settings.load_profile("core")


@pytest.fixture(scope="session")
def llama() -> BaseModel:
    return tiny_base("llama")


@pytest.fixture(scope="session")
def gpt2() -> BaseModel:
    return tiny_base("gpt2")


@pytest.fixture(scope="session")
def tied_llama() -> BaseModel:
    return tiny_base("llama", tied=True)


@pytest.fixture(scope="session", params=["llama", "gpt2", "tied"])
def base(request: pytest.FixtureRequest) -> BaseModel:
    kind: str = request.param
    found: BaseModel = request.getfixturevalue({"tied": "tied_llama"}.get(kind, kind))
    return found


@pytest.fixture(scope="session")
def upper() -> BaseModel:
    """A base that is edited in its last layers, where a random model can be made to say anything."""
    return tiny_base("llama", edited=(1, 2))


@pytest.fixture(scope="session")
def editor(llama: BaseModel) -> Editor:
    return tiny_editor(llama)


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel.load(str(save_tiny_task(tmp_path_factory.mktemp("t5"), "t5")), device="cpu")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel.load(str(save_tiny_task(tmp_path_factory.mktemp("bert"), "bert")), device="cpu")
