"""Tables and lines for people, within 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

MEASURES = (
    ("edit_success", "edit success", "target tokens that are the model's first choice"),
    ("generation_success", "generation success", "facts whose greedy answer begins with the target"),
    ("exact_success", "exact success", "facts whose first sentence is the target"),
    ("chat_success", "chat success", "questions answered so in a chat"),
    ("generalisation", "generalisation", "edit success on the rephrasings"),
    ("locality", "locality", "answers to other prompts that stayed"),
    ("neighbours_unchanged", "neighbours unchanged", "other prompts with the base's answer"),
    ("perplexity_ratio", "perplexity ratio", "edited over base, on a control text"),
)


UNBROKEN = ("id", "fact", "name", "object")


def number(value: Any) -> str:
    """A measure in three decimals; a dash for what was not measured."""
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def measure_table(report: Mapping[str, Any]) -> Table:
    """The report's measures with their meaning."""
    table = Table(box=None, pad_edge=False)
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("meaning", style="dim")
    for name, title, meaning in MEASURES:
        table.add_row(title, number(report.get(name)), meaning)
    return table


def measures_beside(*versions: Mapping[str, Any]) -> Table:
    """The measures of some versions, each in a column."""
    table = Table(box=None, pad_edge=False)
    table.add_column("measure")
    for version in versions:
        table.add_column(f"version {version['number']}", justify="right")
    for name, title, _ in MEASURES:
        table.add_row(title, *(number((version.get("report") or {}).get(name)) for version in versions))
    facts = [str(version["live_fact_count"]) for version in versions]
    table.add_row("facts", *facts)
    return table


def change_table(changes: Sequence[Mapping[str, Any]]) -> Table:
    """Facts that one version holds and another does not."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "fact", "prompt", "target"):
        table.add_column(title, overflow="fold")
    for change in changes:
        sign = "[green]+[/]" if change["change"] == "added" else "[red]-[/]"
        texts = (one_line(str(change[name]), 60) for name in ("fact", "prompt", "target"))
        table.add_row(sign, *map(escape, texts))
    return table


def edit_lines(edit: Mapping[str, Any]) -> Iterator[str]:
    """An edit set in words, with rich markup."""
    version = ""
    if edit.get("version") is not None:
        version = f", version {edit['version']}, {'live' if edit['live'] else 'not live'}"
    yield f"Edit set [bold]{escape(edit['id'])}[/]: {edit['status']}{version} ({edit['fact_count']} facts)"
    report = edit.get("report") or {}
    for name, title, _ in MEASURES:
        if report.get(name) is not None:
            yield f"  {title:<20}{number(report[name]):>8}"
    yield from (f"  [red]{escape(line)}[/]" for line in gate_lines(report))
    problem = edit.get("error")
    if problem:
        yield f"  [red]{escape(str(problem.get('detail') or problem.get('message') or problem))}[/]"


def gate_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Why a report did not meet its gate, a line for each measure; nothing if it did."""
    for miss in report.get("gate_misses") or []:
        name = str(miss["measure"]).replace("_", " ")
        yield f"the gate wants {name} {miss['threshold']}, measured {number(miss['measured'])}"


def version_table(versions: Sequence[Mapping[str, Any]]) -> Table:
    """Versions, newest first."""
    table = Table(box=None, pad_edge=False)
    for title, justify in (("no.", "right"), ("kind", "left"), ("from", "right"), ("facts", "right")):
        table.add_column(title, justify="right" if justify == "right" else "left")
    table.add_column("aliases")
    table.add_column("success", justify="right")
    table.add_column("made")
    for version in sorted(versions, key=lambda version: -int(version["number"])):
        report = version.get("report") or {}
        table.add_row(
            str(version["number"]),
            str(version["kind"]),
            "-" if version["parent"] is None else str(version["parent"]),
            str(version["live_fact_count"]),
            ", ".join(version["aliases"]),
            number(report.get("edit_success")),
            str(version["created_at"])[:19].replace("T", " "),
        )
    return table


def table_of(items: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """Some members of each item, in columns that are called like them."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column in UNBROKEN)
    for item in items:
        table.add_row(*(escape(_shown(item.get(column))) for column in columns))
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else one_line(str(value), 60)


def one_line(text: str, width: int) -> str:
    """Text in one line of at most ``width`` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
