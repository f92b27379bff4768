"""OpenAI's endpoints through OpenAI's own client, with the numbers of Transformers on the merged weights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from errata.cli.app import assemble
from tests import servers
from tests.harness import backend, eventually, tiny_editor
from tests.service.harness import ADMIN, Running, register, running
from tests.tiny import save_tiny

pytestmark = pytest.mark.stack

PROMPT = "The capital of Peru is"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def with_template(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Reference:
    """Transformers on a version's weights, merged."""

    folder: Path

    def __post_init__(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            logprobs: torch.Tensor = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return logprobs

    def greedy(self, ids: list[int], count: int) -> str:
        with torch.inference_mode():
            made = self.model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
        text: str = self.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)
        return text


@dataclass
class Stack:
    service: Running
    references: dict[str, Reference]

    @property
    def url(self) -> str:
        return f"{self.service.url}/v1"


@pytest.fixture(scope="module")
def stack(postgres_server: servers.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The application, a worker, and one edit set that is live as version 1."""
    work = tmp_path_factory.mktemp("openai")
    folder = with_template(save_tiny(work / "tiny"))
    with (
        postgres_server.database() as url,
        servers.valkey() as valkey,
        running(url, valkey.connection_url, work, max_new_tokens=64) as service,
        backend(url, valkey.connection_url, work, folder) as made,
    ):
        made.register(tiny_editor(folder))
        made.start_worker()
        made.wait_ready()
        made.wait_for(made.post())
        environment = {
            "ERRATA_DATABASE_URL": url,
            "ERRATA_BLOB_URL": str(work / "blobs"),
            "ERRATA_DEVICE": "cpu",
        }
        done = CliRunner().invoke(assemble(), ["export", "1", str(work / "merged")], env=environment)
        assert done.exit_code == 0, done.output
        with_template(work / "merged")
        yield Stack(service, {"base": Reference(folder), "live": Reference(work / "merged")})


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.url, api_key=ADMIN, max_retries=0) as made:
        yield made


def test_models_and_versions_are_listed(client: openai.OpenAI) -> None:
    names = {model.id: model for model in client.models.list()}
    assert set(names) == {"tiny", "tiny@base", "tiny@live"}
    assert (names["tiny"].object, names["tiny"].owned_by) == ("model", "errata")
    assert client.models.retrieve("tiny@1").to_dict()["parent"] == "tiny"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("tiny@9")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("ref", ["base", "live"])
def test_completions_are_those_of_the_merged_weights(stack: Stack, client: openai.OpenAI, ref: str) -> None:
    reference = stack.references[ref]
    answer = client.completions.create(model=f"tiny@{ref}", prompt=PROMPT, max_tokens=12, temperature=0)
    assert answer.choices[0].text == reference.greedy(reference.ids(PROMPT), 12)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(reference.ids(PROMPT))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    if ref == "live":
        for name in ("tiny", "tiny@1"):
            same = client.completions.create(model=name, prompt=PROMPT, max_tokens=12, temperature=0)
            assert same.choices[0].text == answer.choices[0].text
            assert same.model == name


def test_prompts_may_be_ids_and_several(stack: Stack, client: openai.OpenAI) -> None:
    reference = stack.references["live"]
    prompts = [reference.ids(text) for text in (PROMPT, "The river", "Mount Etna is a mountain in")]
    answer = client.completions.create(model="tiny", prompt=prompts, max_tokens=6, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.text for choice in answer.choices] == [reference.greedy(ids, 6) for ids in prompts]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
    alone = client.completions.create(model="tiny", prompt=prompts[0], max_tokens=6, temperature=0)
    assert alone.choices[0].text == answer.choices[0].text
    many = client.completions.create(model="tiny", prompt=["The river"] * 40, max_tokens=2, temperature=0)
    assert len({choice.text for choice in many.choices}) == 1


@pytest.mark.parametrize("ref", ["base", "live"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_prompts_are_scored(stack: Stack, client: openai.OpenAI, ref: str, count: int) -> None:
    reference = stack.references[ref]
    ids = reference.ids(PROMPT)
    answer = client.completions.create(
        model=f"tiny@{ref}", prompt=ids, max_tokens=count, temperature=0, logprobs=3, echo=True
    )
    (choice,) = answer.choices
    assert choice.text == PROMPT + (reference.greedy(ids, count) if count else "")
    assert choice.logprobs is not None
    found: list[Any] = choice.logprobs.token_logprobs or []
    best: list[Any] = choice.logprobs.top_logprobs or []
    assert len(found) == len(ids) + count
    assert found[0] is None
    assert best[0] is None
    expected = reference.logprobs(ids)
    for at, token in enumerate(ids[1:], start=1):
        assert found[at] == pytest.approx(float(expected[at - 1, token]), abs=1e-4)
        assert max(best[at].values()) == pytest.approx(float(expected[at - 1].max()), abs=1e-4)
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens[: len(ids)]) == PROMPT
    assert choice.logprobs.text_offset is not None
    assert choice.logprobs.text_offset[:2] == [0, len(choice.logprobs.tokens[0])]
    if count:
        assert found[len(ids)] == pytest.approx(float(expected[-1].max()), abs=1e-4)


def test_sampling_is_repeatable_and_texts_are_stopped(client: openai.OpenAI) -> None:
    def ask(**options: Any) -> str:
        made = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, **options)
        return str(made.choices[0].text)

    assert ask(seed=7) == ask(seed=7)
    assert len({ask(seed=seed) for seed in range(5)}) > 1
    greedy = ask(temperature=0)
    stop = greedy[4:6]
    assert ask(temperature=0, stop=stop) == greedy[: greedy.index(stop)]
    assert ask(temperature=0, stop=[stop, "never"]) == greedy[: greedy.index(stop)]


def test_streams(stack: Stack, client: openai.OpenAI) -> None:
    whole = client.completions.create(
        model="tiny", prompt=[PROMPT, "The river"], max_tokens=8, temperature=0, logprobs=1, echo=True
    )
    chunks = list(
        client.completions.create(
            model="tiny",
            prompt=[PROMPT, "The river"],
            max_tokens=8,
            temperature=0,
            logprobs=1,
            echo=True,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    for index, choice in enumerate(whole.choices):
        own = [each for chunk in chunks for each in chunk.choices if each.index == index]
        assert "".join(each.text for each in own) == choice.text
        assert own[-1].finish_reason == choice.finish_reason
        said = [value for each in own if each.logprobs for value in each.logprobs.token_logprobs or []]
        assert choice.logprobs is not None
        assert said == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)


def test_chat(stack: Stack, client: openai.OpenAI) -> None:
    reference = stack.references["live"]
    messages: list[Any] = [{"role": "user", "content": "What is the capital of Peru?"}]
    text = reference.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = reference.ids(text)
    answer = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=10, temperature=0, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", reference.greedy(ids, 10))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    first = choice.logprobs.content[0]
    assert first.logprob == pytest.approx(float(reference.logprobs(ids)[-1].max()), abs=1e-4)
    assert len(first.top_logprobs) == 2
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": messages[0]["content"]}]}]
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=parts, max_completion_tokens=10, temperature=0, stream=True
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason
    longest = client.chat.completions.create(model="tiny", messages=messages, temperature=0)
    assert longest.usage is not None
    assert longest.usage.completion_tokens <= 64


def test_in_an_event_loop(stack: Stack) -> None:
    async def work() -> tuple[list[str], str]:
        async with openai.AsyncOpenAI(base_url=stack.url, api_key=ADMIN, max_retries=0) as client:
            asked = [
                client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8, temperature=0)
                for _ in range(8)
            ]
            answers = [answer.choices[0].text for answer in await asyncio.gather(*asked)]
            stream = await client.chat.completions.create(
                model="tiny@base", messages=[{"role": "user", "content": "Hi"}], max_tokens=5, stream=True
            )
            return answers, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    answers, streamed = asyncio.run(work())
    assert len(set(answers)) == 1
    assert isinstance(streamed, str)


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        ({"model": "nobody"}, 404, "model", "nobody"),
        ({"model": "tiny@9"}, 404, "model", "9"),
        ({"model": "tiny@nothing"}, 404, "model", "nothing"),
        ({"prompt": [5, 100_000]}, 400, "prompt", "does not know the token"),
        ({"prompt": [[5], [-1]]}, 400, "prompt.1", "does not know the token"),
        ({"prompt": []}, 400, "prompt", "token ids"),
        ({"prompt": [1, "a"]}, 400, "prompt", "token ids"),
        ({"prompt": ""}, 400, "prompt", "0 tokens"),
        ({"prompt": "The river " * 200}, 400, "prompt", "context"),
        ({"max_tokens": 0}, 400, "max_tokens", "at least 1"),
        ({"max_tokens": 1000}, 400, "max_tokens", "ERRATA_MAX_NEW_TOKENS"),
        ({"n": 2}, 400, "n", "not supported"),
        ({"suffix": "."}, 400, "suffix", "not supported"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "not supported"),
        ({"best_of": True}, 400, "best_of", "not supported"),
        ({"guided_json": {}}, 400, "guided_json", "not a known field"),
        ({"logprobs": 100}, 400, "logprobs", "20"),
        ({"stop": [""]}, 400, "stop", "empty"),
        ({"temperature": "hot"}, 400, "temperature", "number"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "set stream"),
    ],
)
def test_what_is_wrong_is_said_in_openai_s_shape(
    stack: Stack, body: dict[str, Any], status: int, param: str, says: str
) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, **body}
    answer = stack.service.client().post("/v1/completions", json=asked)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["code"]


def test_errors_of_every_kind_have_openai_s_shape(stack: Stack, client: openai.OpenAI) -> None:
    system: list[Any] = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    with pytest.raises(openai.BadRequestError, match="System role not supported") as refused:
        client.chat.completions.create(model="tiny", messages=system)
    assert refused.value.param == "messages"
    tool: Any = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(openai.BadRequestError, match="not supported"):
        client.chat.completions.create(model="tiny", messages=system[1:], tools=[tool])
    other = openai.OpenAI(base_url=stack.url, api_key="wrong", max_retries=0)
    with other, pytest.raises(openai.AuthenticationError) as denied:
        other.models.list()
    assert denied.value.code == "invalid_api_key"
    admin = stack.service.client()
    assert admin.get("/v1/nothing").json()["error"]["code"] == "no-such-path"
    assert admin.get("/v1/completions").json()["error"]["code"] == "method-not-allowed"
    json_text = {"Content-Type": "application/json"}
    broken = admin.post("/v1/completions", content="{", headers=json_text)
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid-json")
    late = admin.post("/v1/completions", json={"model": "tiny@9", "prompt": "x", "stream": True})
    assert (late.status_code, late.json()["error"]["param"]) == (404, "model")


def test_a_model_without_a_chat_template_says_so(stack: Stack, tmp_path: Path) -> None:
    register(stack.service.ledger, save_tiny(tmp_path / "plain"), "plain")
    asked = {"model": "plain", "messages": [{"role": "user"}]}
    answer = stack.service.client().post("/tokenize", json=asked)
    assert answer.status_code == 400
    assert "no chat template" in answer.json()["error"]["message"]


def test_the_tokenizer_is_asked(stack: Stack) -> None:
    admin, reference = stack.service.client(), stack.references["base"]
    info = admin.get("/tokenizer_info", params={"model": "tiny"}).json()
    assert (info["eos_token"], info["chat_template"]) == ("<eos>", TEMPLATE)
    found = admin.post(
        "/tokenize", json={"model": "tiny", "prompt": PROMPT, "return_token_strs": True}
    ).json()
    assert found["tokens"] == reference.ids(PROMPT)
    assert (found["count"], "".join(found["token_strs"])) == (len(found["tokens"]), PROMPT)
    chat = admin.post("/tokenize", json={"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]})
    assert chat.json()["tokens"] == reference.ids("user: Hi\nassistant:")
    back = admin.post("/detokenize", json={"model": "tiny", "tokens": found["tokens"]})
    assert back.json() == {"prompt": PROMPT}
    wrong = admin.post("/detokenize", json={"model": "tiny", "tokens": [100_000]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "tokens")
    neither = admin.post("/tokenize", json={"model": "tiny"})
    assert "exactly one" in neither.json()["error"]["message"]


def test_a_stream_ends_when_its_client_goes(stack: Stack) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 64, "temperature": 0, "stream": True}
    with httpx.stream(
        "POST", f"{stack.url}/completions", json=body, headers={"Authorization": f"Bearer {ADMIN}"}
    ) as answer:
        line = next(answer.iter_lines())
    assert json.loads(line.removeprefix("data: "))["object"] == "text_completion"
    eventually("the end", lambda: stack.service.services.generations.borrowed_tokens == 0 or None)
