"""Ask the base model and the live version through OpenAI's client (`pip install openai`).

Start a service with `errata up`, then

    ERRATA_URL=http://127.0.0.1:8000 ERRATA_KEY=$(cat .errata/admin.key) python examples/openai_client.py
"""

from __future__ import annotations

import os

import openai

PROMPT = "The capital of Australia is"


def main() -> None:
    """Run the example."""
    url = os.environ.get("ERRATA_URL", "http://127.0.0.1:8000")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=os.environ["ERRATA_KEY"]) as client:
        names = [model.id for model in client.models.list()]
        print("models ", ", ".join(names))
        for name in (f"{names[0]}@base", f"{names[0]}@live"):
            answer = client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=0)
            print(f"{name}: {PROMPT}{answer.choices[0].text}")

        stream = client.completions.create(model=names[0], prompt=PROMPT, max_tokens=12, stream=True)
        print(PROMPT, end="")
        for chunk in stream:
            print(chunk.choices[0].text, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
