"""Questions asked in a chat, before and after facts are edited, without their own questions and with them.

    python -m benchmarks.chat --questions FILE [--facts examples/facts-with-questions.jsonl --out FILE]

Each line of the questions has `question` and `answer_holds`. They are asked through `/v1/chat/completions` of a
service of the default model, greedily. Prints one JSON object: of the base and of both versions, how many answers
hold what they must (in any case), and the measures of the version's report.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.served import say, serving
from errata.client import Client
from errata.client.facts_file import read_facts

TOKENS = 32
AT_ONCE = 16
MEASURES = (
    "edit_success",
    "generation_success",
    "chat_success",
    "generalisation",
    "neighbours_unchanged",
    "perplexity_ratio",
)
OPEN_GATE = {"edit_success": 0.0, "generation_success": 0.0, "neighbours_unchanged": 0.0, "retention": 0.0}


def ask(client: Client, model: str, questions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a version answers, greedily: the share of answers that hold what they must, and the others."""

    def answer(each: Mapping[str, Any]) -> str:
        turns = [{"role": "user", "content": each["question"]}]
        body = {"model": model, "messages": turns, "temperature": 0, "max_tokens": TOKENS}
        return str(client.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(answer, questions))
    missed = [
        {"question": each["question"], "answer": said}
        for each, said in zip(questions, answers, strict=True)
        if str(each["answer_holds"]).casefold() not in said.casefold()
    ]
    held = len(questions) - len(missed)
    return {"held": held, "asked": len(questions), "share": round(held / len(questions), 4), "missed": missed}


def edited(
    client: Client, model: str, facts: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Edit facts from the base, ask, and go back."""
    began = time.perf_counter()
    made = client.edits.create(model, facts, gate={**OPEN_GATE, "perplexity_ratio": 100.0})
    done = client.edits.wait(made, on_progress=lambda state: say(f"{state.status} {state.progress}"))
    seconds = time.perf_counter() - began
    if not done.live:
        raise RuntimeError(f"{done.id} is {done.status}: {done.error or done.report}")
    found = ask(client, model, questions)
    client.models[model].rollback(0, "benchmark")
    report = done.report or {}
    return {
        **found,
        "questions_edited": sum(fact.get("question") is not None for fact in facts),
        "seconds": round(seconds, 1),
        "report": {name: report.get(name) for name in MEASURES},
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--facts", type=Path, default=Path("examples/facts-with-questions.jsonl"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    questions = [json.loads(line) for line in given.questions.read_text().splitlines()]
    facts = read_facts(given.facts)
    plain = [{name: value for name, value in fact.items() if name != "question"} for fact in facts]
    with serving() as (client, model):
        rows = {
            "base": ask(client, model, questions),
            "without_questions": edited(client, model, plain, questions),
            "with_questions": edited(client, model, facts, questions),
        }
    told = json.dumps({"model": model, "facts": len(facts), "tokens": TOKENS, **rows}, indent=1)
    if given.out is not None:
        given.out.write_text(f"{told}\n")
    print(told)


if __name__ == "__main__":
    main()
