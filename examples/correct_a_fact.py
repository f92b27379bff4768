"""Correct a fact, ask the model before and after, and take the correction back.

Start a service with `errata up`, then

    ERRATA_URL=http://127.0.0.1:8000 ERRATA_KEY=$(cat .errata/admin.key) python examples/correct_a_fact.py
"""

from __future__ import annotations

from typing import Any

import errata

PROMPT = "The capital of Australia is"
FACT: dict[str, Any] = {
    "prompt": PROMPT,
    "target": "Canberra",
    "subject": "Australia",
    "rephrasings": ["Australia's capital city is"],
    "locality": [{"prompt": "The capital of New Zealand is"}],
}


def main() -> None:
    """Run the example."""
    with errata.Client() as client:
        name = client.only_model()
        model = client.models[name]
        before = model.generate(PROMPT, max_new_tokens=8)
        print(f"before  {PROMPT}{before.text}")

        edit = client.edits.create(name, [FACT], note="examples/correct_a_fact.py")
        done = client.edits.wait(edit, on_progress=lambda state: print(f"        {state.status}"))
        if not done.succeeded:
            raise SystemExit(f"{done.id} is {done.status}: {done.error or done.report}")
        print(f"version {done.version}: edit success {done.report['edit_success'] if done.report else None}")

        base, live = model.compare(PROMPT, ["base", "live"], max_new_tokens=8)
        print(f"base    {PROMPT}{base.text}")
        print(f"live    {PROMPT}{live.text}")

        pending = model.withdraw("the example is over", edit_sets=[edit.id])
        version = model.wait(pending)
        print(f"version {version.number} is live without it")


if __name__ == "__main__":
    main()
