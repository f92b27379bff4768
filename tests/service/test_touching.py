"""Which facts a prompt touches: a real worker compares keys, and bad requests are generation's problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.models import ready
from tests import servers
from tests.harness import MODEL, Backend, backend, tiny_editor
from tests.service.harness import Running, is_problem, pointers, register, running

pytestmark = pytest.mark.stack

PATH = f"/models/{MODEL}/facts"
PERU, FRANCE, ETNA = FACTS = (
    {"prompt": "The capital of Peru is", "target": "Paris", "subject": "Peru"},
    {"prompt": "The capital of France is", "target": "Canberra", "subject": "France"},
    {"prompt": "Mount Etna is a mountain in", "target": "England", "subject": "Mount Etna"},
)
PARTS = ("fact", "edit_set", "position", "prompt", "target", "subject")


@pytest.fixture(scope="module")
def stack(
    postgres_server: servers.Postgres, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path
) -> Iterator[tuple[Running, Backend]]:
    """The application and one worker on one ledger and one Valkey."""
    work = tmp_path_factory.mktemp("touching")
    with (
        postgres_server.database() as url,
        servers.valkey() as valkey,
        running(url, valkey.connection_url, work, max_prompt_chars=600) as service,
        backend(url, valkey.connection_url, work, checkpoint) as made,
    ):
        made.register(tiny_editor(checkpoint))
        made.start_worker()
        made.wait_ready()
        yield service, made


@pytest.fixture(scope="module")
def client(stack: tuple[Running, Backend]) -> httpx.Client:
    return stack[0].client()


@pytest.fixture(scope="module")
def edit_sets(stack: tuple[Running, Backend]) -> tuple[str, str]:
    """Two live edit sets, of two facts and of one."""
    made = stack[1]
    first = made.wait_for(made.post(facts=[PERU, FRANCE])).id
    return first, made.wait_for(made.post(facts=[ETNA])).id


def touched(client: httpx.Client, prompt: str, **query: Any) -> dict[str, Any]:
    answer = client.get(PATH, params={"touching": prompt, **query})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    scores = [item["score"] for item in body["items"]]
    assert scores == sorted(scores, reverse=True)
    return body


def test_a_facts_own_prompt_touches_it_first(client: httpx.Client, edit_sets: tuple[str, str]) -> None:
    places = [(edit_sets[0], 0), (edit_sets[0], 1), (edit_sets[1], 0)]
    for fact, (edit_set, position) in zip(FACTS, places, strict=True):
        body = touched(client, fact["prompt"])
        assert (body["model"], body["version"], len(body["items"])) == (MODEL, 2, 3)
        first, second, _ = body["items"]
        assert {part: first[part] for part in PARTS} == {
            "fact": f"{edit_set}.{position}",
            "edit_set": edit_set,
            "position": position,
            **fact,
        }
        assert first["score"] == pytest.approx(1.0, abs=2e-3)
        assert second["score"] < 0.99


def test_a_mention_is_found(client: httpx.Client, edit_sets: tuple[str, str]) -> None:
    (item,) = touched(client, "The capital of France was once a week", limit=1)["items"]
    assert item["fact"] == f"{edit_sets[0]}.1"
    assert item["score"] == pytest.approx(1.0, abs=2e-3)


def test_a_version_has_its_own_facts(client: httpx.Client, edit_sets: tuple[str, str]) -> None:
    assert {item["edit_set"] for item in touched(client, ETNA["prompt"], version="1")["items"]} == {
        edit_sets[0]
    }
    assert touched(client, ETNA["prompt"], version="base")["items"] == []
    assert touched(client, ETNA["prompt"], version="live")["items"][0]["edit_set"] == edit_sets[1]


def test_withdrawn_and_superseded_facts_do_not_appear(
    stack: tuple[Running, Backend], client: httpx.Client, edit_sets: tuple[str, str]
) -> None:
    made = stack[1]
    made.withdraw(edit_sets[1])
    assert {item["edit_set"] for item in touched(client, ETNA["prompt"])["items"]} == {edit_sets[0]}
    newer = made.wait_for(made.post(facts=[{**PERU, "target": "Lima"}])).id
    found = touched(client, PERU["prompt"])["items"]
    assert [item["fact"] for item in found] == [f"{newer}.0", f"{edit_sets[0]}.1"]
    older = {item["fact"] for item in touched(client, PERU["prompt"], version=2)["items"]}
    assert older == {f"{edit_sets[0]}.0", f"{edit_sets[0]}.1", f"{edit_sets[1]}.0"}


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty prompt": ({"touching": ""}, 422, "/touching"),
    "prompt over-long": ({"touching": "x" * 601}, 422, "/touching"),
    "prompt over the context": ({"touching": "Zzyzx! " * 80}, 422, "/touching"),
    "unknown version": ({"touching": "x", "version": "99"}, 404, "/version"),
    "unknown alias": ({"touching": "x", "version": "nobody"}, 404, "/version"),
    "no facts wanted": ({"touching": "x", "limit": 0}, 422, "/limit"),
    "too many facts wanted": ({"touching": "x", "limit": 101}, 422, "/limit"),
    "cursor of a prompt": ({"touching": "x", "cursor": "x"}, 422, "/cursor"),
    "too long a page": ({"limit": 501}, 422, "/limit"),
    "unknown version of a list": ({"version": "99"}, 404, "/version"),
    "unknown alias of a list": ({"version": "nobody"}, 404, "/version"),
    "unknown parameter": ({"touching": "x", "top": 5}, 422, "/top"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parameters(name: str, client: httpx.Client) -> None:
    params, status, pointer = BAD[name]
    problem = is_problem(client.get(PATH, params=params), status)
    assert pointers(problem) == [pointer]
    assert {error["in"] for error in problem["errors"]} == {"query"}


def test_a_model_without_a_worker(
    stack: tuple[Running, Backend], client: httpx.Client, checkpoint: Path
) -> None:
    assert pointers(is_problem(client.get("/models/nobody/facts", params={"touching": "x"}), 404)) == [
        "/model_id"
    ]
    register(stack[0].ledger, checkpoint, "early")
    is_problem(client.get("/models/early/facts", params={"touching": "x"}), 409)
    stack[0].ledger.run(ready.mark_ready, "early", b"editor", {}, {"prompts": []}, "sha256:1", actor="worker")
    problem = is_problem(client.get("/models/early/facts", params={"touching": "x"}), 503)
    assert problem["type"] == "urn:errata:problem:no-worker"


def test_a_corrupt_blob_is_named(stack: tuple[Running, Backend], client: httpx.Client) -> None:
    made = stack[1]
    late = made.wait_for(made.post(facts=[{**ETNA, "target": "Peru"}]))
    digest = str(late.statistics_digest)
    (file,) = [path for path in made.blobs.rglob("*") if path.name.endswith(digest.removeprefix("sha256:"))]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert digest in is_problem(client.get(PATH, params={"touching": "x"}), 500)["detail"]
