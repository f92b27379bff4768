"""``errata generate``: ask a version."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from errata.cli.console import emit, out, reporting
from errata.cli.options import Json, Key, Model, Url
from errata.client.connect import connect


def register(app: typer.Typer) -> None:
    """Add ``generate``."""
    app.command()(generate)


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask it as a user's turn, in the model's chat template.")
    ] = False,
    version: Annotated[
        list[str] | None, typer.Option(help="Number, alias or `base`; repeat to compare. [default: live]")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to generate.", min=1)] = 32,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the distribution.", min=0.0, max=1.0)] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="String at which the text ends; repeatable.")] = None,
    model: Model = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Continue a prompt with the live version, or with others."""
    wanted = version or ["live"]
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": list(stop or []),
    }
    with reporting(as_json), connect(url, key) as client:
        asked = client.models[client.only_model(model)]
        given = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        answers = [asked.generate(**given, version=name, **options).raw for name in wanted]
    if as_json:
        emit(answers[0] if len(answers) == 1 else {"items": answers})
        return
    for name, answer in zip(wanted, answers, strict=True):
        if len(answers) > 1:
            out.print(f"[bold]{escape(name)}[/] (version {answer['version']})")
        labels = answer.get("labels") or {}
        between = "\n" if chat else " " if labels else ""
        out.print(f"[dim]{escape(prompt)}[/]{between}{escape(answer['text'])}", soft_wrap=True)
        for label, probability in labels.items():
            out.print(f"  {escape(label)} {probability:.3f}")
