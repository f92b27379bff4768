"""Files of facts: their forms, named columns, and bad rows."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from errata.client.facts_file import (
    BadRow,
    FactsFile,
    example_facts,
    parse_columns,
    prompts_of,
    read_facts,
    read_file,
)
from errata.client.records import Row
from errata.errors import InputFileError

ROOT = Path(__file__).resolve().parents[2]
FACT: dict[str, Any] = {
    "prompt": "The capital of Australia is",
    "target": "Canberra",
    "rephrasings": ["Australia's capital city is"],
    "locality": [{"prompt": "The capital of Peru is"}],
}
ZSRE = {
    "src": "What is the capital of Peru?",
    "answers": ["Lima"],
    "alt": "Cusco",
    "rephrase": "Peru has",
}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def details(found: FactsFile) -> str:
    with pytest.raises(InputFileError) as refused:
        found.check()
    return "\n".join((refused.value.message, *refused.value.details))


def test_json_in_its_forms(tmp_path: Path) -> None:
    fact = {"prompt": "a", "target": "b\u2028c"}
    for text in (
        json.dumps(fact) + "\n\n" + json.dumps(fact),
        json.dumps([fact, fact], indent=2),
        "\ufeff" + json.dumps(fact) + "\r\n" + json.dumps(fact),
    ):
        assert read_facts(written(tmp_path / "facts.json", text)) == [fact, fact]
    assert read_facts(written(tmp_path / "one.json", json.dumps(fact, indent=2))) == [fact]


def test_csv_and_tsv(tmp_path: Path) -> None:
    plain = {"prompt": 'She said "hi",\nand', "target": "left"}
    cells = '"She said ""hi"",\nand",left,,'
    lists = (
        '"The capital of Australia is",Canberra,"[""Australia\'s capital city is""]","The capital of Peru is"'
    )
    text = f"prompt,target,rephrasings,locality\n{lists}\n{cells}\n"
    assert read_facts(written(tmp_path / "facts.csv", text)) == [FACT, plain]
    other = "target;prompt\nLima;The capital of Peru, in the Andes, is\n"
    assert read_facts(written(tmp_path / "semicolons.csv", other))[0]["target"] == "Lima"
    assert read_facts(written(tmp_path / "facts.tsv", "prompt\ttarget\na, b\tc\n")) == [
        {"prompt": "a, b", "target": "c"}
    ]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "facts.parquet"
    other = {"prompt": "Water is", "target": "wet"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([FACT, other]), path)
    assert read_facts(path) == [FACT, other]
    written(path, "prompt,target")
    with pytest.raises(InputFileError, match="is not a Parquet file"):
        read_file(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputFileError, match=r"pip install 'errata-llm\[parquet\]'"):
        read_file(tmp_path / "facts.parquet")


def test_columns_are_named(tmp_path: Path) -> None:
    text = "id,question,answer,also,near\n7,a,b,c,d\n8,e,f,,\n"
    columns = parse_columns(["prompt=question", "target=answer", "rephrasings=also", "locality=near"])
    found = read_file(written(tmp_path / "facts.csv", text), columns=columns)
    assert found.facts == [
        {"prompt": "a", "target": "b", "rephrasings": ["c"], "locality": [{"prompt": "d"}]},
        {"prompt": "e", "target": "f"},
    ]
    assert found.unused == ()
    text = (
        '{"question": "a", "target": "b", "one": "c", "two": ["d", "e"], "near": [{"prompt": "f"}], "r": 1}'
    )
    columns = parse_columns(["prompt=question", "rephrasings=one", "rephrasings=two", "locality=near"])
    found = read_file(written(tmp_path / "facts.jsonl", text), columns=columns)
    assert found.facts == [
        {"prompt": "a", "target": "b", "rephrasings": ["c", "d", "e"], "locality": [{"prompt": "f"}]}
    ]
    assert found.unused == ("r",)


def test_a_column_takes_the_place_of_what_a_published_format_says(tmp_path: Path) -> None:
    file = written(tmp_path / "zsre.json", json.dumps([ZSRE]))
    (fact,) = read_file(file, columns=parse_columns(["target=alt"])).facts
    assert (fact["prompt"], fact["target"]) == (ZSRE["src"], "Cusco")
    assert fact["rephrasings"] == ["Peru has"]


@pytest.mark.parametrize("given", ["question", "prompts=question", "prompt=", "=x"])
def test_a_mapping_names_a_member_and_a_column(given: str) -> None:
    with pytest.raises(InputFileError, match="--map prompt=question"):
        parse_columns([given])
    with pytest.raises(InputFileError, match="twice"):
        parse_columns(["prompt=a", "prompt=b"])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("f.jsonl", '{"prompt": "a", "target": "b"}\n{', "line 2: it is not JSON"),
        ("f.jsonl", '{"prompt": "a", "target": "b"}\n1', "line 2: It is not an object"),
        ("f.json", "[1]", "item 1: It is not an object"),
        ("f.jsonl", '{"prompt": "\\ud800"}', "line 1: it is not JSON: .* surrogates not allowed"),
        ("f.jsonl", '{"prompt": "a", "target": NaN}', "line 1: it is not JSON: Out of range"),
        ("f.jsonl", '{"prompt": ' + "[" * 100_000, "line 1: it is not JSON: it is nested too deeply"),
        ("f.jsonl", "{}", r"line 1: The members \(none\) are of no known format"),
        ("f.jsonl", '{"src": "Who?"}', "line 1, /alt: 'alt' is missing"),
        (
            "f.jsonl",
            '{"prompt": "a", "target": "b", "rephrase": "c"}',
            "/rephrase: 'rephrase' is not a member",
        ),
        ("f.csv", "prompt,target\na,b,c\n", "line 2: it has more cells than the header"),
        (
            "f.csv",
            "prompt,target,rephrasings\na,b,[c\n",
            "line 2: the cell of 'rephrasings' is not a JSON list",
        ),
        ("f.csv", 'prompt,target\n"a\nb",c\nd,\n', "line 4, /target: 'target' is missing"),
        ("f.csv", "prompt,target,odd\na,b,c\nd,e,f\n", "every row, /odd: 'odd' is not a member"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    found = read_file(written(tmp_path / name, text))
    assert re.search(words, details(found))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("f.jsonl", "", "holds no facts"),
        ("f.json", "[1", "is not a JSON array"),
        ("f.json", "[" * 100_000, "not a JSON array: it is nested too deeply"),
        ("f.csv", "prompt,prompt\na,b\n", "no name of its own"),
        ("f.csv", 'prompt,target\n"a,b\n', "cannot be read"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(InputFileError, match=words):
        read_facts(written(tmp_path / name, text))


def test_all_bad_rows_are_named_up_to_a_hundred(tmp_path: Path) -> None:
    good = json.dumps({"prompt": "a", "target": "b"})
    lines = [
        json.dumps({"prompt": "a", "target": number}) if number % 20 == 0 else good for number in range(6000)
    ]
    started = time.monotonic()
    text = details(read_file(written(tmp_path / "facts.jsonl", "\n".join(lines)))).splitlines()
    assert time.monotonic() - started < 2
    assert "300 rows are bad. The first 100 are named." in text[0]
    assert text[1:3] == [f"line {at}, /target: 'target' is of type int. It must be a text." for at in (1, 21)]
    assert len(text) == 101


def test_bad_rows_are_written_with_what_is_wrong(tmp_path: Path) -> None:
    rows = [Row("line 1", {"a": 1}), Row("line 2", {"b": 2})]
    found = FactsFile("f", [{"prompt": "x"}, {"prompt": "y"}], rows, [BadRow(Row("line 3", "{"), "", "cut")])
    found.reject([(1, "/target", "too long"), (1, "/prompt", "too long")])
    assert (found.facts, found.rows) == ([{"prompt": "x"}], rows[:1])
    assert found.write_bad(tmp_path / "bad.jsonl") == 2
    assert [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()] == [
        {"place": "line 3", "errors": [{"pointer": "", "detail": "cut"}], "record": "{"},
        {
            "place": "line 2",
            "errors": [
                {"pointer": "/target", "detail": "too long"},
                {"pointer": "/prompt", "detail": "too long"},
            ],
            "record": {"b": 2},
        },
    ]


def test_prompts_of_facts_once_each() -> None:
    assert prompts_of([FACT, {"prompt": "The capital of Peru is", "target": "Lima"}]) == [
        "The capital of Australia is",
        "Australia's capital city is",
        "The capital of Peru is",
    ]


def test_the_packaged_examples_are_those_of_the_repository() -> None:
    packaged = ROOT / "errata" / "data" / "facts.jsonl"
    assert packaged.read_bytes() == (ROOT / "examples" / "facts.jsonl").read_bytes()
    assert len(example_facts()) >= 25
