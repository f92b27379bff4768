"""Post several edit sets from an event loop, wait for all of them, and read an answer as it is written.

Start a service with `errata up`, then

    ERRATA_URL=http://127.0.0.1:8000 ERRATA_KEY=$(cat .errata/admin.key) python examples/many_edits.py
"""

from __future__ import annotations

import asyncio

import errata

FACTS = [
    {"prompt": "The capital of Australia is", "target": "Canberra", "subject": "Australia"},
    {"prompt": "The capital of Kazakhstan is", "target": "Astana", "subject": "Kazakhstan"},
    {"prompt": "The capital of Myanmar is", "target": "Naypyidaw", "subject": "Myanmar"},
]


async def main() -> None:
    """Run the example."""
    async with errata.AsyncClient() as client:
        name = await client.only_model()
        edits = await asyncio.gather(*(client.edits.create(name, [fact]) for fact in FACTS))
        for done in await asyncio.gather(*map(client.edits.wait, edits)):
            print(f"{done.id} is {done.status}, version {done.version}")

        model = client.models[name]
        print(FACTS[0]["prompt"], end="")
        async for text in model.stream(FACTS[0]["prompt"], max_new_tokens=12):
            print(text, end="", flush=True)
        print()

        async for edit in client.edits.list(model=name, limit=100):
            print(f"{edit.created_at}  {edit.id}  {edit.status}  {edit.fact_count} facts")
        version = await model.rollback(0, "the example is over")
        print(f"version {version.number} is live: {version.live_fact_count} facts")


if __name__ == "__main__":
    asyncio.run(main())
