"""What MkDocs does beside rendering pages: reference pages from the code, and links that leave the folder.

A page asks for a generated part with a line such as ``<!-- generated: cli -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MARK = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


class BrokenLink(ValueError):
    """A page links to a file that the repository does not have."""


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in generated parts, and name files outside the folder by their paths."""
    filled = MARK.sub(lambda found: PARTS[found[1]](), markdown)
    return name_files(filled, DOCS / page.file.src_uri)


def name_files(markdown: str, source: Path) -> str:
    """Links to files of the repository that are not pages become the files' paths.

    Raises:
        BrokenLink: there is no such file.
    """

    def named(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if target.is_relative_to(DOCS):
            return found[0]
        if not target.is_relative_to(ROOT) or not target.exists():
            raise BrokenLink(f"{source.relative_to(ROOT)} links to {found[2]}, which does not exist")
        path = f"`{target.relative_to(ROOT)}`"
        return path if found[1].strip("`") in (found[2], path.strip("`")) else f"{found[1]} ({path})"

    return LINK.sub(named, markdown)


def command_line() -> str:
    """Every command of ``errata`` with its arguments and options."""
    import typer
    from typer.cli import get_docs_for_click

    from errata.cli.app import assemble

    command = typer.main.get_command(assemble())
    context = typer.Context(command, info_name="errata")
    text = get_docs_for_click(obj=command, ctx=context, name="errata")
    return text.partition("\n")[2]  # without the title, which is the page's


def openapi() -> dict[str, Any]:
    """The service's OpenAPI document; no server is asked."""
    from pydantic import SecretStr

    from broker.settings import BrokerSettings
    from ledger.settings import LedgerSettings
    from service.app import create_app
    from service.settings import ServiceSettings

    ledger = LedgerSettings(database_url=SecretStr("postgresql://localhost/none"), blob_url="s3://none/none")
    return create_app(ServiceSettings(), ledger, BrokerSettings()).openapi()


def http_api() -> str:
    """Every operation with its parameters and answers, and every schema with its members."""
    document = openapi()
    return "\n".join(["## Operations", "", *operations(document), "## Schemas", "", *schemas(document)])


def operations(document: Mapping[str, Any]) -> Iterator[str]:
    """The operations, in the order of the routes."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield from (f"### {method.upper()} `{path}`", "", operation.get("description", ""), "")
            yield from _parameters(operation.get("parameters", ()))
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                yield from (f"Body (`{media}`): {_type(content.get('schema', {}))}", "")
            for status, answer in operation["responses"].items():
                kinds = [_type(each.get("schema", {})) for each in answer.get("content", {}).values()]
                meaning = answer.get("description", "").rstrip(".")
                yield f"- `{status}` {meaning}{': ' if any(kinds) else ''}{', '.join(kinds)}"
            yield ""


def _parameters(parameters: Any) -> Iterator[str]:
    if parameters:
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for each in parameters:
            name = f"`{each['name']}`" + (" (required)" if each.get("required") else "")
            yield f"| {name} | {each['in']} | {_type(each['schema'])} | {_cell(each)} |"
        yield ""


def schemas(document: Mapping[str, Any]) -> Iterator[str]:
    """The schemas by name."""
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from (f"### {name}", "", schema.get("description", ""), "")
        if schema.get("properties"):
            yield from ("| member | type | meaning |", "|---|---|---|")
            for member, each in schema["properties"].items():
                wanted = " (required)" if member in schema.get("required", ()) else ""
                yield f"| `{member}`{wanted} | {_type(each)} | {_cell(each)} |"
            yield ""


def _cell(described: Mapping[str, Any]) -> str:
    text = " ".join(str(described.get("description", "")).split())
    return text.replace("|", "\\|")


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a word or two."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for kind in ("anyOf", "oneOf", "allOf"):
        if kind in schema:
            return " or ".join(_type(each) for each in schema[kind])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "")) or "any"


def decisions() -> str:
    """The pages of decisions, in their order."""
    return _listed(DOCS / "decisions")


def experiments() -> str:
    """The pages of experiments."""
    return _listed(DOCS / "experiments")


def _listed(folder: Path) -> str:
    pages = sorted(path for path in folder.glob("*.md") if path.name != "index.md")
    return "\n".join(f"- [{page.read_text().splitlines()[0].lstrip('# ')}]({page.name})" for page in pages)


PARTS: Mapping[str, Callable[[], str]] = {
    "cli": command_line,
    "decisions": decisions,
    "experiments": experiments,
    "openapi": http_api,
}
"""What can be generated, by the name in the mark."""
