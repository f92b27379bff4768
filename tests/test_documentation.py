"""What the pages name exists, and the pages that are generated leave nothing out."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from errata.cli.app import assemble

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = "benchmarks|broker|deploy|docs|errata|examples|ledger|malmen_core|migrations|problems|service|tests|worker"
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./-]+)`")
LINKED = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def load_hooks() -> ModuleType:
    """The site's hooks, which MkDocs loads by their path too."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


def test_files_that_pages_name_exist() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        for name in NAMED.findall(page.read_text())
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_links_of_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in LINKED.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_command_is_in_the_reference() -> None:
    text = hooks.command_line()
    app = assemble()
    names = [command.name or "" for command in app.registered_commands]
    groups = [group.name or "" for group in app.registered_groups]
    assert [name for name in (*names, *groups) if f"## `errata {name}`" not in text and name] == []
    assert "--max-new-tokens" in text


def test_operations_and_schemas_are_written_out() -> None:
    document = {
        "paths": {
            "/things/{id}": {
                "post": {
                    "description": "Change a thing.",
                    "parameters": [
                        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
                    ],
                    "requestBody": {
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}
                    },
                    "responses": {"404": {"description": "There is no such thing."}},
                }
            }
        },
        "components": {
            "schemas": {
                "Thing": {
                    "properties": {"kind": {"enum": ["a", "b"], "description": "One | other"}},
                    "required": ["kind"],
                }
            }
        },
    }
    text = "\n".join([*hooks.operations(document), *hooks.schemas(document)])
    for part in (
        "### POST `/things/{id}`",
        "Change a thing.",
        "| `id` (required) | path | string |",
        "Body (`application/json`): [Thing](#thing)",
        "- `404` There is no such thing",
        "| `kind` (required) | `a` or `b` | One \\| other |",
    ):
        assert part in text


def test_a_link_out_of_the_folder_becomes_a_path() -> None:
    page = ROOT / "docs" / "benchmarks.md"
    assert hooks.name_files("[the list](../constraints.txt)", page) == "the list (`constraints.txt`)"
    assert hooks.name_files("[`constraints.txt`](../constraints.txt)", page) == "`constraints.txt`"
    assert hooks.name_files("[x](../docs/index.md)", page) == "[x](../docs/index.md)"
    with pytest.raises(hooks.BrokenLink, match=r"nowhere\.txt"):
        hooks.name_files("[x](../nowhere.txt)", page)


def test_an_unknown_part_is_not_passed_over() -> None:
    with pytest.raises(KeyError):
        hooks.MARK.sub(lambda found: hooks.PARTS[found[1]](), "<!-- generated: nothing -->")
