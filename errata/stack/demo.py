"""The demonstration: a real model is corrected through the real service, questioned, and rolled back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from errata.cli.render import gate_lines
from errata.client import Client
from errata.errors import DemoFailed
from errata.lab.memory import peak_mb, reset_peak, resident_mb
from errata.stack.stack import Stack

ANSWER_TOKENS = 5
LONG_ANSWER_TOKENS = 24
SIDE_BY_SIDE = 3
REASON = "The demo goes back to the untouched model"
THRESHOLDS = (
    ("generation_success", 0.9, "at least"),
    ("neighbours_unchanged", 0.5, "at least"),
    ("perplexity_ratio", 1.05, "at most"),
)


@dataclass(frozen=True)
class Answer:
    """What a version said: the text, and the digest of the weights that said it."""

    text: str
    weights_digest: str | None


@dataclass(frozen=True)
class Check:
    """Something that must hold, in words."""

    what: str
    held: bool


@dataclass(frozen=True)
class DemoResult:
    """What ``.errata/demo.json`` holds. Measures are None where there is nothing to measure them on."""

    facts: int
    edit_success: float | None
    generation_success: float | None
    exact_success: float | None
    chat_success: float | None
    generalisation: float | None
    locality: float | None
    neighbours_unchanged: float | None
    perplexity_ratio: float | None
    rollback_identical: bool
    seconds: float
    base_rss_mb: float | None
    worker_peak_rss_mb: float | None
    model: str
    status: str
    passed: bool

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class Memory:
    """The worker's memory in MB: with the model loaded, and at its peak since then."""

    base: float | None
    peak: float | None


class Demo:
    """The steps of the demonstration on a stack that runs; each may be called once, in order.

    Args:
        stack: With its model ready.
        client: With an admin key.
        facts: In API form.
    """

    def __init__(self, stack: Stack, client: Client, facts: Sequence[Mapping[str, Any]]) -> None:
        self.stack = stack
        self.client = client
        self.facts = facts
        self.model = stack.model_id
        self._base_rss = resident_mb(stack.worker_pid())
        reset_peak(stack.worker_pid())

    def prompts(self) -> list[str]:
        """The prompts of the facts."""
        return [str(fact["prompt"]) for fact in self.facts]

    def live(self) -> dict[str, Any]:
        """The version that is live."""
        number = self.client.get(f"/models/{self.model}")["live_version"]
        return self.client.get(f"/models/{self.model}/versions/{number}")

    def answer(self, prompt: str) -> Answer:
        """What the live version says, greedily."""
        return self._ask(prompt, {"version": "live", "max_new_tokens": ANSWER_TOKENS})

    def side_by_side(self, prompt: str) -> tuple[Answer, Answer]:
        """What the base and the live version say, at more length."""
        body = {"prompt": prompt, "versions": ["base", "live"], "max_new_tokens": LONG_ANSWER_TOKENS}
        items = self.client.post(f"/models/{self.model}/generate", body)["items"]
        base, live = (Answer(item["text"], item["weights_digest"]) for item in items)
        return base, live

    def post(self) -> dict[str, Any]:
        """Post the facts as one edit set."""
        body = {"model": self.model, "facts": list(self.facts), "note": "errata demo"}
        return self.client.post("/edits", body)

    def roll_back(self, to_version: int) -> dict[str, Any]:
        """Make a version with an earlier one's weights, and make it live."""
        body = {"to_version": to_version, "reason": REASON}
        return self.client.post(f"/admin/models/{self.model}/rollback", body)

    def verify_ledger(self) -> bool:
        """Whether the hash chain and every blob are in order."""
        return bool(self.client.get("/admin/ledger/verify")["ok"])

    def memory(self) -> Memory:
        """The worker's memory so far."""
        return Memory(self._base_rss, peak_mb(self.stack.worker_pid()))

    def _ask(self, prompt: str, options: Mapping[str, Any]) -> Answer:
        item = self.client.post(f"/models/{self.model}/generate", {"prompt": prompt, **options})
        return Answer(item["text"], item["weights_digest"])


def require_applied(edit: Mapping[str, Any]) -> None:
    """Stop the demonstration where there is nothing to show.

    Raises:
        DemoFailed: The edit set was not applied.
    """
    if edit["status"] != "succeeded":
        problem = edit.get("error") or {}
        reasons = tuple(gate_lines(edit.get("report") or {})) or (str(problem.get("detail", problem)),)
        raise DemoFailed(
            f"The edit set ended as {edit['status']}.", "The live version was not touched.", reasons
        )


def report_checks(report: Mapping[str, Any]) -> list[Check]:
    """Whether the report reaches what the examples are known to reach with the default model."""
    checks = []
    for name, threshold, direction in THRESHOLDS:
        value = report.get(name)
        reached = value is not None and (
            value >= threshold if direction == "at least" else value <= threshold
        )
        checks.append(Check(f"{name.replace('_', ' ')} {direction} {threshold}", reached))
    return checks


def rollback_checks(
    before: Sequence[Answer], after: Sequence[Answer], old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[Check]:
    """Whether a rollback gave back, bit for bit, what was there before.

    Args:
        before: Answers of the old version.
        after: Answers to the same prompts after the rollback.
        old: The version that was live before.
        new: The version that the rollback made.
    """
    texts = [answer.text for answer in before] == [answer.text for answer in after]
    digests = {answer.weights_digest for answer in (*before, *after)}
    recorded = {old["weights_digest"], new["weights_digest"]}
    return [
        Check("rolled back: the answers are those of before", texts),
        Check(
            "rolled back: the weights' hash is that of before",
            len(digests | recorded) == 1 and None not in digests,
        ),
    ]
