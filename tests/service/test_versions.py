"""Versions, aliases, rollback, withdrawal and the ledger's proof. A test plays the worker."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.edits import edit_sets, withdrawals
from ledger.jobs import jobs
from tests.service import player
from tests.service.harness import Running, is_problem, pointers, register

ROLLBACK = "/admin/models/tiny/rollback"


@pytest.fixture(scope="module", autouse=True)
def ready(service: Running) -> None:
    player.prepare(service.ledger)


def apply(service: Running, admin: httpx.Client, prompt: str, *, gate_met: bool = True) -> dict[str, Any]:
    """Post an edit set of one fact, play the worker, give the edit set."""
    body = {"model": "tiny", "facts": [{"prompt": prompt, "target": "Canberra"}]}
    made = admin.post("/edits", json=body).json()
    player.finish(service.ledger, service.ledger.run(edit_sets.get, made["id"]).job_id, gate_met=gate_met)
    seen: dict[str, Any] = admin.get(f"/edits/{made['id']}").json()
    return seen


def live(admin: httpx.Client) -> int:
    return int(admin.get("/models/tiny").json()["live_version"])


def test_history_and_rollback(service: Running, admin: httpx.Client) -> None:
    first = apply(service, admin, "One is")
    second = apply(service, admin, "Two is")
    assert live(admin) == second["version"]
    version = admin.get(f"/models/tiny/versions/{first['version']}").json()
    assert version["kind"] == "edit"
    assert version["edit_set_count"] == 1
    listed = admin.get(f"/models/tiny/versions/{first['version']}/edit_sets").json()["items"]
    assert [member["edit_set"] for member in listed] == [first["id"]]
    assert version["live_fact_count"] == 1
    assert version["hash"].startswith("sha256:")
    assert admin.get("/models/tiny/versions/live").json()["number"] == second["version"]
    assert admin.get("/models/tiny/versions/base").json()["number"] == 0
    answer = admin.post(ROLLBACK, json={"to_version": first["version"], "reason": "retracted"})
    assert answer.status_code == 200
    made = answer.json()
    assert (made["kind"], made["restores"], made["reason"]) == ("rollback", first["version"], "retracted")
    assert made["delta_digest"] == version["delta_digest"]
    assert made["aliases"] == ["live"]
    assert answer.headers["Location"] == f"/models/tiny/versions/{made['number']}"
    numbers = [item["number"] for item in admin.get("/models/tiny/versions").json()["items"]]
    assert numbers == list(range(made["number"], -1, -1))
    assert admin.get(f"/edits/{second['id']}").json()["status"] == "succeeded"
    assert admin.get(f"/edits/{second['id']}").json()["live"] is False


def test_what_waits_for_the_alias_is_applied_and_not_live(service: Running, admin: httpx.Client) -> None:
    body = {"model": "tiny", "facts": [{"prompt": "It is", "target": "Canberra"}], "promote": "manual"}
    made = admin.post("/edits", json=body).json()
    player.finish(service.ledger, service.ledger.run(edit_sets.get, made["id"]).job_id)
    seen = admin.get(f"/edits/{made['id']}").json()
    assert (seen["status"], seen["live"]) == ("succeeded", False)
    admin.put("/admin/models/tiny/aliases/live", json={"version": seen["version"]})
    assert admin.get(f"/edits/{made['id']}").json()["live"] is True


def test_withdrawal(service: Running, admin: httpx.Client) -> None:
    edit_set = apply(service, admin, "Three is")
    body = {"withdraw": {"edit_sets": [edit_set["id"]]}, "reason": "retracted"}
    answer = admin.post(ROLLBACK, json=body)
    assert answer.status_code == 202
    path = answer.headers["Location"]
    pending = admin.get(path)
    assert pending.status_code == 202
    assert pending.json()["status"] == "queued"
    withdrawal = service.ledger.run(withdrawals.get, path.rpartition("/")[2])
    made = player.finish(service.ledger, withdrawal.job_id)
    done = admin.get(path)
    assert done.status_code == 200
    assert (done.json()["number"], done.json()["kind"]) == (made.number, "withdraw")
    assert live(admin) == made.number
    problem = is_problem(admin.post(ROLLBACK, json=body), 409)
    assert pointers(problem) == ["/withdraw/edit_sets/0"]


def test_the_facts_of_a_version_can_be_read_after_it(service: Running, admin: httpx.Client) -> None:
    asked = [{"prompt": f"Fact {n} is", "target": "Canberra"} for n in range(3)]
    sets = [admin.post("/edits", json={"model": "tiny", "facts": asked[n:]}).json()["id"] for n in (0, 2)]
    for ident in sets:
        older = player.finish(service.ledger, service.ledger.run(edit_sets.get, ident).job_id).number
    body = {"withdraw": {"facts": [f"{sets[0]}.1"]}, "reason": "retracted"}
    path = admin.post(ROLLBACK, json=body).headers["Location"]
    newer = player.finish(
        service.ledger, service.ledger.run(withdrawals.get, path.rpartition("/")[2]).job_id
    ).number
    first, again, third = (
        f"{sets[0]}.0",
        f"{sets[0]}.1",
        f"{sets[1]}.0",
    )  # which supersedes the first set's last
    for version, held in ((older, [first, again, third]), (newer, [first, third])):
        seen: list[dict[str, Any]] = []
        params: dict[str, Any] = {"version": version, "limit": 1}
        while params.get("cursor", "") is not None:
            page = admin.get("/models/tiny/facts", params=params).json()
            assert (page["model"], page["version"]) == ("tiny", version)
            seen += page["items"]
            params["cursor"] = page["next_cursor"]
        shown = [fact["fact"] for fact in seen if fact["edit_set"] in sets]
        assert shown == held
        assert len(seen) == admin.get(f"/models/tiny/versions/{version}").json()["live_fact_count"]
    assert seen[-1] == {"fact": third, "edit_set": sets[1], "position": 0, "subject": None, **asked[2]}
    whole = admin.get("/models/tiny/facts").json()
    assert (whole["version"], whole["items"], whole["next_cursor"]) == (newer, seen, None)
    other = admin.get("/models/tiny/facts", params={"version": older, "limit": 1}).json()["next_cursor"]
    assert pointers(is_problem(admin.get("/models/tiny/facts", params={"cursor": other}), 422)) == ["/cursor"]
    assert admin.get("/models/tiny/facts", params={"version": "base"}).json()["items"] == []


def all_items(admin: httpx.Client, path: str, **params: Any) -> list[dict[str, Any]]:
    """The items of a list, read in pages of two."""
    items: list[dict[str, Any]] = []
    params["limit"] = 2
    while params.get("cursor", "") is not None:
        page = admin.get(path, params=params).json()
        items += page["items"]
        params["cursor"] = page["next_cursor"]
    return items


def test_any_two_versions_can_be_compared(service: Running, admin: httpx.Client) -> None:
    def finish(job_id: str) -> int:
        return player.finish(service.ledger, job_id).number

    asked = [{"prompt": f"Item {n} is", "target": "Canberra"} for n in range(4)]
    parts = (asked[:3], asked[2:])
    sets = [admin.post("/edits", json={"model": "tiny", "facts": facts}).json()["id"] for facts in parts]
    numbers = [finish(service.ledger.run(edit_sets.get, ident).job_id) for ident in sets]
    wanted = {"withdraw": {"facts": [f"{sets[0]}.1"]}, "reason": "retracted"}
    asked_for = admin.post(ROLLBACK, json=wanted).json()["id"]
    numbers.append(finish(service.ledger.run(withdrawals.get, asked_for).job_id))
    numbers += [0, admin.post(ROLLBACK, json={"to_version": numbers[0], "reason": "back"}).json()["number"]]
    held = {n: [f["fact"] for f in all_items(admin, "/models/tiny/facts", version=n)] for n in numbers}
    for version, since in product(numbers, numbers):
        path = f"/models/tiny/versions/{version}/changes"
        found = [(item["change"], item["fact"]) for item in all_items(admin, path, since=since)]
        expected = [("added", fact) for fact in held[version] if fact not in held[since]]
        expected += [("removed", fact) for fact in held[since] if fact not in held[version]]
        assert found == sorted(expected, key=lambda change: change[1])
        assert bool(found) == (held[version] != held[since])
    second = admin.get(f"/models/tiny/versions/{numbers[1]}/changes").json()  # since its parent
    assert (second["version"]["number"], second["since"]["number"]) == (numbers[1], numbers[0])
    assert [(item["change"], item["fact"]) for item in second["items"]] == [
        ("removed", f"{sets[0]}.2"),
        ("added", f"{sets[1]}.0"),
        ("added", f"{sets[1]}.1"),
    ]
    assert second["items"][1] | asked[2] == second["items"][1]
    assert second["version"]["report"] is not None
    assert admin.get("/models/tiny/versions/base/changes").json()["items"] == []


def test_what_cannot_be_compared_is_named(service: Running, admin: httpx.Client) -> None:
    is_problem(admin.get("/models/tiny/versions/999/changes"), 404)
    is_problem(admin.get("/models/tiny/versions/live/changes", params={"since": "nobody"}), 404)
    is_problem(admin.get("/models/tiny/versions/live/changes", params={"cursor": "x"}), 422)


def test_a_failed_withdrawal_says_why(service: Running, admin: httpx.Client) -> None:
    edit_set = apply(service, admin, "Four is")
    body = {"withdraw": {"facts": [f"{edit_set['id']}.0"]}, "reason": "retracted"}
    path = admin.post(ROLLBACK, json=body).headers["Location"]
    job = service.ledger.run(withdrawals.get, path.rpartition("/")[2]).job_id
    service.ledger.run(jobs.fail, player.claim(service.ledger, job), {"detail": "The disk is full."})
    problem = is_problem(admin.get(path), 409)
    assert "The disk is full." in problem["detail"]


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"reason": "x"}, 422, "/withdraw"),
        ({"to_version": 0}, 422, "/reason"),
        ({"to_version": 0, "reason": " "}, 422, "/reason"),
        ({"to_version": "1", "reason": "x"}, 422, "/to_version"),
        ({"to_version": -1, "reason": "x"}, 422, "/to_version"),
        ({"to_version": 9999, "reason": "x"}, 404, "/to_version"),
        ({"to_version": 0, "withdraw": {"facts": ["x.0"]}, "reason": "x"}, 422, "/withdraw"),
        ({"withdraw": {}, "reason": "x"}, 422, "/withdraw"),
        ({"withdraw": {"edit_sets": ["nobody"]}, "reason": "x"}, 404, "/withdraw/edit_sets/0"),
        ({"withdraw": {"facts": ["nobody.0"]}, "reason": "x"}, 404, "/withdraw"),
        ({"to_version": 0, "reason": "x" * 4001}, 422, "/reason"),
    ],
)
def test_bad_rollbacks(
    service: Running, admin: httpx.Client, body: dict[str, Any], status: int, pointer: str
) -> None:
    before = service.counts()
    problem = is_problem(admin.post(ROLLBACK, json=body), status)
    assert any(found.startswith(pointer) for found in pointers(problem))
    assert service.counts() == before


def test_a_refused_version_needs_force_and_a_reason(service: Running, admin: httpx.Client) -> None:
    was = live(admin)
    refused = apply(service, admin, "Five is", gate_met=False)
    assert refused["status"] == "rejected"
    assert live(admin) == was
    path = "/admin/models/tiny/aliases/live"
    problem = is_problem(admin.put(path, json={"version": refused["version"]}), 409)
    assert "force" in problem["detail"]
    assert pointers(problem) == ["/version"]
    problem = is_problem(admin.post(ROLLBACK, json={"to_version": refused["version"], "reason": "x"}), 409)
    assert f"({path}) with force" in problem["detail"]
    assert pointers(problem) == ["/to_version"]
    problem = is_problem(admin.put(path, json={"version": refused["version"], "force": True}), 422)
    assert pointers(problem) == ["/reason"]
    assert live(admin) == was
    body = {"version": refused["version"], "force": True, "reason": "reviewed"}
    assert admin.put(path, json=body).status_code == 200
    assert live(admin) == refused["version"]


def test_aliases(admin: httpx.Client) -> None:
    answer = admin.put("/admin/models/tiny/aliases/stable", json={"version": 0})
    assert answer.json() == {"model": "tiny", "name": "stable", "version": 0}
    assert admin.get("/models/tiny/versions/stable").json()["number"] == 0
    assert admin.get("/models/tiny").json()["aliases"]["stable"] == 0
    is_problem(admin.put("/admin/models/tiny/aliases/stable", json={"version": 9999}), 404)
    is_problem(admin.put("/admin/models/nobody/aliases/stable", json={"version": 0}), 404)
    problem = is_problem(admin.put("/admin/models/tiny/aliases/7", json={"version": 0}), 422)
    assert problem["detail"].startswith("The alias '7' is not allowed.")


def test_an_alias_is_moved_only_from_where_it_is_thought_to_be(admin: httpx.Client) -> None:
    path = "/admin/models/tiny/aliases/guarded"
    is_problem(admin.get(path), 404)
    body = {"version": 0}
    refused = is_problem(admin.put(path, json=body, headers={"If-Match": '"0"'}), 412)
    assert refused["type"].endswith("alias-moved")
    assert admin.put(path, json=body).headers["ETag"] == '"0"'
    seen = admin.get(path)
    assert (seen.json()["version"], seen.headers["ETag"]) == (0, '"0"')
    is_problem(admin.put(path, json=body, headers={"If-Match": '"1"'}), 412)
    assert admin.put(path, json={"version": 1}, headers={"If-Match": '"0", "7"'}).headers["ETag"] == '"1"'
    is_problem(admin.delete(path, headers={"If-Match": '"0"'}), 412)
    for bad in ("7", "*", 'W/"1"', ""):
        problem = is_problem(admin.put(path, json=body, headers={"If-Match": bad}), 422)
        assert pointers(problem) == ["/if-match"]
    assert admin.delete(path, headers={"If-Match": '"1"'}).status_code == 204


def test_a_model_without_versions_is_not_ready(
    service: Running, admin: httpx.Client, checkpoint: Path
) -> None:
    register(service.ledger, checkpoint, "early")
    for answer in (
        admin.put("/admin/models/early/aliases/live", json={"version": 0}),
        admin.post("/admin/models/early/rollback", json={"to_version": 0, "reason": "x"}),
    ):
        assert is_problem(answer, 409)["type"] == "urn:errata:problem:model-not-ready"


def test_an_alias_is_removed(service: Running, admin: httpx.Client) -> None:
    path = "/admin/models/tiny/aliases/mistyped"
    assert admin.put(path, json={"version": 0}).status_code == 200
    is_problem(service.client(service.key("read", "edit")).delete(path), 403)
    answer = admin.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "mistyped" not in admin.get("/models/tiny").json()["aliases"]
    is_problem(admin.get("/models/tiny/versions/mistyped"), 404)
    assert pointers(is_problem(admin.delete(path), 404)) == ["/name"]
    was = live(admin)
    assert pointers(is_problem(admin.delete("/admin/models/tiny/aliases/live"), 422)) == ["/name"]
    assert live(admin) == was
    for missing in ("nobody/aliases/x", "tiny/aliases/base", "tiny/aliases/%00"):
        is_problem(admin.delete(f"/admin/models/{missing}"), 404)


@pytest.mark.parametrize("path", ["tiny/versions/9999", "tiny/versions/nobody", "x/versions"])
def test_unknown_versions(admin: httpx.Client, path: str) -> None:
    is_problem(admin.get(f"/models/{path}"), 404)


def test_the_ledger_proves_itself(admin: httpx.Client) -> None:
    check = admin.get("/admin/ledger/verify").json()
    assert check["ok"] is True
    assert check["problems"] == []
    assert check["versions"] >= 1


def test_a_rollback_says_what_is_queued_and_cancels_it_on_request(
    service: Running, admin: httpx.Client
) -> None:
    body = {"model": "tiny", "facts": [{"prompt": "It is", "target": "Canberra"}]}
    queued = [admin.post("/edits", json=body).json()["id"] for _ in range(2)]
    made = admin.post(ROLLBACK, json={"to_version": 0, "reason": "over"}).json()
    assert [ident for ident in made["queued"] if ident in queued] == queued
    assert (made["queued_count"], made["cancelled_count"]) == (len(made["queued"]), 0)
    made = admin.post(ROLLBACK, json={"to_version": 0, "reason": "over", "cancel_queued": True}).json()
    assert (made["queued"], made["queued_count"]) == ([], 0)
    assert made["cancelled_count"] >= 2
    assert {admin.get(f"/edits/{ident}").json()["status"] for ident in queued} == {"cancelled"}


def test_a_dry_run_says_what_would_leave_and_return_and_changes_nothing(
    service: Running, admin: httpx.Client
) -> None:
    first, second = (apply(service, admin, "Asked twice is") for _ in range(2))
    before = admin.get("/models/tiny").json()["live_version"]
    wanted = [{"to_version": first["version"]}, {"withdraw": {"edit_sets": [second["id"]]}}]
    for body in wanted:
        asked = {**body, "reason": "?", "dry_run": True, "cancel_queued": True}
        answer = admin.post(ROLLBACK, json=asked)
        assert answer.status_code == 200
        told = answer.json()
        assert [fact["edit_set"] for fact in told["leaves"]] == [second["id"]]
        assert [fact["edit_set"] for fact in told["returns"]] == [first["id"]]
        assert (told["leaves_count"], told["returns_count"], told["cancelled_count"]) == (1, 1, 0)
        assert told["live_version"] == before
    unknown = {"to_version": 99999, "reason": "?", "dry_run": True}
    is_problem(admin.post(ROLLBACK, json=unknown), 404)
    assert admin.get("/models/tiny").json()["live_version"] == before
    assert admin.get("/models/tiny/versions").json()["items"][0]["number"] == before


@pytest.mark.parametrize("name", ["Live", "LIVE", "Base", "BASE", "base"])
def test_aliases_are_not_told_apart_by_case_from_those_that_mean_something(
    admin: httpx.Client, name: str
) -> None:
    is_problem(admin.put(f"/admin/models/tiny/aliases/{name}", json={"version": 0}), 422)
    if name != "base":
        is_problem(admin.get(f"/models/tiny/versions/{name}"), 404)
