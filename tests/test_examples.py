"""The example facts and the texts that the core measures with keep to the rules that their users rely on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FACTS_FILE = ROOT / "examples" / "facts.jsonl"
DATA = ROOT / "malmen_core" / "resources"


@dataclass(frozen=True)
class Example:
    prompt: str
    target: str
    subject: str
    rephrasings: tuple[str, ...]
    locality: tuple[str, ...]
    question: str | None

    @property
    def wordings(self) -> tuple[str, ...]:
        return (self.prompt, *self.rephrasings)


def read_examples() -> list[Example]:
    examples = []
    for line in FACTS_FILE.read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        assert set(record) - {"question"} == {"prompt", "target", "subject", "rephrasings", "locality"}
        assert all(set(probe) == {"prompt"} for probe in record["locality"])
        examples.append(
            Example(
                prompt=record["prompt"],
                target=record["target"],
                subject=record["subject"],
                rephrasings=tuple(record["rephrasings"]),
                locality=tuple(probe["prompt"] for probe in record["locality"]),
                question=record.get("question"),
            )
        )
    return examples


def read_json(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def mentions(text: str, name: str) -> bool:
    """Whether `name` stands in `text` as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


EXAMPLES = read_examples()


def test_there_are_between_30_and_36_facts() -> None:
    assert 30 <= len(EXAMPLES) <= 36


def test_prompts_subjects_and_probes_are_unique() -> None:
    subjects = [example.subject.casefold() for example in EXAMPLES]
    wordings = [text.casefold() for example in EXAMPLES for text in example.wordings]
    probes = [text.casefold() for example in EXAMPLES for text in example.locality]
    assert len(set(subjects)) == len(subjects)
    assert len(set(wordings + probes)) == len(wordings) + len(probes)


def offenders(wrong: Callable[[Example], object]) -> list[str]:
    """The subjects of the facts in which something is wrong."""
    return [example.subject for example in EXAMPLES if wrong(example)]


def test_each_wording_contains_the_subject_verbatim() -> None:
    assert offenders(lambda fact: [text for text in fact.wordings if fact.subject not in text]) == []


def test_a_rephrasing_has_the_subject_at_another_place() -> None:
    def wrong(fact: Example) -> bool:
        place = fact.prompt.index(fact.subject)
        return all(text.index(fact.subject) == place for text in fact.rephrasings)

    assert offenders(wrong) == []


def test_there_are_enough_rephrasings_and_probes() -> None:
    assert offenders(lambda fact: len(fact.rephrasings) < 2 or len(fact.locality) < 2) == []


def test_texts_end_right_before_the_target() -> None:
    def wrong(fact: Example) -> bool:
        texts = (*fact.wordings, *fact.locality)
        untidy = [text for text in (*texts, fact.target, fact.subject) if not text or text != tidy(text)]
        closed = [text for text in texts if text.endswith((".", ";", "!"))]
        return bool(untidy or closed) or fact.target.endswith((".", ",", ";", ":", "!", "?"))

    assert offenders(wrong) == []


def tidy(text: str) -> str:
    return " ".join(text.split())


def test_no_wording_gives_the_target_away() -> None:
    assert offenders(lambda fact: [text for text in fact.wordings if mentions(text, fact.target)]) == []


def test_no_probe_mentions_an_edited_subject() -> None:
    def wrong(fact: Example) -> list[str]:
        return [text for text in fact.locality for other in EXAMPLES if mentions(text, other.subject)]

    assert offenders(wrong) == []


def test_no_wording_mentions_the_subject_of_another_fact() -> None:
    def wrong(fact: Example) -> list[str]:
        others = [other.subject for other in EXAMPLES if other.subject != fact.subject]
        return [text for text in fact.wordings for name in others if mentions(text, name)]

    assert offenders(wrong) == []


def test_canaries_have_the_agreed_form() -> None:
    canaries = read_json("canaries.json")
    assert set(canaries) == {"control_text", "prompts"}
    assert 12 <= len(canaries["control_text"]) <= 16
    assert all(40 <= len(text.split()) <= 90 for text in canaries["control_text"])
    assert len(set(canaries["control_text"])) == len(canaries["control_text"])
    assert len(set(canaries["prompts"])) == 24 == len(canaries["prompts"])
    assert all(text.strip() for text in canaries["prompts"])


def test_openings_are_many_and_unique() -> None:
    openings = read_json("openings.json")
    assert isinstance(openings, list)
    assert 150 <= len(openings) <= 175
    assert len({text.casefold() for text in openings}) == len(openings)
    assert all(text and text == text.strip() for text in openings)


def test_canaries_and_openings_mention_no_edited_subject() -> None:
    canaries = read_json("canaries.json")
    texts = [*canaries["control_text"], *canaries["prompts"], *read_json("openings.json")]
    found = [(x.subject, text) for text in texts for x in EXAMPLES if mentions(text, x.subject)]
    assert not found


def test_openings_repeat_no_text_that_something_is_measured_on() -> None:
    measured = {text for example in EXAMPLES for text in (*example.wordings, *example.locality)}
    measured.update(read_json("canaries.json")["prompts"])
    assert not measured & set(read_json("openings.json"))


def read_entities() -> dict[str, tuple[list[str], list[str]]]:
    """Names and templates of each kind."""
    record: dict[str, Any] = read_json("entities.json")
    assert set(record) == {"kinds"}
    assert all(set(kind) == {"names", "templates"} for kind in record["kinds"].values())
    return {kind: (entry["names"], entry["templates"]) for kind, entry in record["kinds"].items()}


ENTITIES = read_entities()


def test_entities_are_many_and_unique() -> None:
    names = [name for kind_names, _ in ENTITIES.values() for name in kind_names]
    assert 16 <= len(ENTITIES) <= 24
    assert 1100 <= len(names) <= 1400
    assert len({name.casefold() for name in names}) == len(names)


def test_entity_templates_are_unique_within_their_kind_and_almost_so_across_kinds() -> None:
    templates = [template for _, kind_templates in ENTITIES.values() for template in kind_templates]
    assert all(len(set(kind_templates)) == len(kind_templates) for _, kind_templates in ENTITIES.values())
    assert len(set(templates)) >= 0.9 * len(templates)


def kinds(wrong: Callable[[list[str], list[str]], object]) -> list[str]:
    """The kinds with whose names and templates something is wrong."""
    return [kind for kind, (names, templates) in ENTITIES.items() if wrong(names, templates)]


def test_each_kind_of_entity_has_enough_names() -> None:
    def wrong(names: list[str], templates: list[str]) -> bool:
        bad = [name for name in names if not name or name != tidy(name) or "{" in name or "}" in name]
        return bool(bad) or not 40 <= len(names) <= 80

    assert kinds(wrong) == []


def test_each_entity_template_has_one_placeholder() -> None:
    def bad(template: str) -> bool:
        counts = {template.count("{}"), template.count("{"), template.count("}")}
        return template != template.strip() or counts != {1} or template.endswith((".", ";", "!"))

    assert kinds(lambda _, templates: any(map(bad, templates)) or not 8 <= len(templates) <= 12) == []


def test_entity_templates_place_the_name_at_the_start_middle_and_end() -> None:
    def wrong(_: list[str], templates: list[str]) -> bool:
        starts = {template for template in templates if template.startswith(("{}", "The {}"))}
        ends = {template for template in templates if template.endswith(("{}", "{}?"))}
        questions = [template for template in templates if "?" in template]
        return len(starts) < 2 or not ends or len(questions) < 2 or len(templates) == len(starts | ends)

    assert kinds(wrong) == []


def test_entities_mention_no_edited_subject() -> None:
    def wrong(names: list[str], templates: list[str]) -> list[str]:
        texts = (*names, *templates)
        return [text for text in texts for example in EXAMPLES if mentions(text, example.subject)]

    assert kinds(wrong) == []


def test_entity_prompts_repeat_no_text_that_something_is_measured_on() -> None:
    measured = {text for example in EXAMPLES for text in (*example.wordings, *example.locality)}
    measured.update(read_json("canaries.json")["prompts"])
    for names, templates in ENTITIES.values():
        assert not measured & {template.format(name) for template in templates for name in names}
