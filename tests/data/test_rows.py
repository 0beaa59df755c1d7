"""Files of examples: every format gives the same rows, and a bad file names its line."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from lfl_jax.assets.tables import read_table
from lfl_jax.data.rows import split_examples
from lfl_jax.data.splits import SPLITS
from lfl_jax.errors import UserError

ROWS = [{"question": f"How many is {i}?", "answer": f"#### {i}"} for i in range(40)]


def write(path, rows=ROWS):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".jsonl"):
        path.write_text(lines)
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def all_examples(path):
    table = read_table(path)
    splits = SPLITS if len(table) > 2 else ("train",)
    return [e for split in splits for e in split_examples(table, split)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_every_format_gives_every_row_once(tmp_path, name):
    examples = all_examples(write(tmp_path / name))
    assert sorted((e.prompt, e.response) for e in examples) == sorted(
        (r["question"], r["answer"]) for r in ROWS
    )
    assert {e.id for e in examples} == {f"{name}:{i}" for i in range(1, 41)}


def test_examples_are_in_random_access(tmp_path):
    train = split_examples(read_table(write(tmp_path / "a.jsonl")), "train")
    assert [train[i] for i in range(len(train))] == list(train)
    assert train[-1] == list(train)[-1]
    with pytest.raises(IndexError):
        train[len(train)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "p", "response": "r", "answer": "no"}, ("p", "r")),
        ({"question": "p", "answer": "r"}, ("p", "r")),
        ({"query": "p", "response": "r", "type": "x"}, ("p", "r")),
        ({"instruction": "p", "output": "r", "input": ""}, ("p", "r")),
        ({"instruction": "p", "output": "r", "input": "more"}, ("p\nmore", "r")),
        ({"instruction": "p", "response": "r"}, ("p", "r")),
        ({"problem": "p", "solution": "r"}, ("p", "r")),
    ],
)
def test_known_pairs_of_fields(tmp_path, fields, expected):
    (found,) = all_examples(write(tmp_path / "a.jsonl", [fields]))
    assert (found.prompt, found.response) == expected


def test_rewrites_of_one_question_stay_together(tmp_path):
    rows = [
        {"query": f"rewrite {i}", "response": "r", "original_question": str(i % 10)}
        for i in range(60)
    ]
    table = read_table(write(tmp_path / "a.json", rows))
    clusters = [{e.cluster for e in split_examples(table, split)} for split in SPLITS]
    assert [len(c) for c in clusters] == [8, 1, 1]
    assert len(set.union(*clusters)) == 10


def test_blank_lines_and_windows_line_ends_count_but_are_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row) for row in ROWS[:2]]
    path.write_bytes(f"\n{lines[0]}\r\n\r\n{lines[1]}".encode())
    assert [e.id for e in all_examples(path)] == ["a.jsonl:2", "a.jsonl:4"]


def bad(tmp_path, text, name="a.jsonl"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        all_examples(path)
    assert "\n" not in str(error.value)
    return str(error.value)


GOOD = json.dumps(ROWS[0])


def test_malformed_json_names_file_and_line(tmp_path):
    message = bad(tmp_path, f"{GOOD}\n\n{GOOD[:-3]}\n{GOOD}\n")
    assert "a.jsonl:3" in message
    assert "not valid JSON" in message


def test_bytes_that_are_no_text_name_file_and_line(tmp_path):
    assert "a.jsonl:2" in bad(tmp_path, f"{GOOD}\n".encode() + b'{"question": "\xff"}\n')


def test_a_line_that_is_no_object(tmp_path):
    message = bad(tmp_path, f"{GOOD}\n[1, 2]\n")
    assert "a.jsonl:2" in message
    assert "list" in message


def test_unknown_fields_are_listed_with_the_known_ones(tmp_path):
    message = bad(tmp_path, '{"text": "x", "label": 1}\n')
    assert "label, text" in message
    assert "question/answer" in message


def test_a_row_without_the_field_of_the_first(tmp_path):
    message = bad(tmp_path, f'{GOOD}\n{{"question": "q", "solution": "s"}}\n')
    assert "a.jsonl:2" in message
    assert "'answer'" in message


@pytest.mark.parametrize("value", ['""', '"  "', "5", "null", '["x"]'])
def test_a_field_that_is_no_text(tmp_path, value):
    message = bad(tmp_path, f'{GOOD}\n{{"question": "q", "answer": {value}}}\n')
    assert "a.jsonl:2" in message
    assert "'answer'" in message


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file(tmp_path, text):
    assert "empty" in bad(tmp_path, text)


def test_an_empty_array(tmp_path):
    assert "empty" in bad(tmp_path, "[]", "a.json")


def test_an_object_where_an_array_is_expected(tmp_path):
    assert "expected an array of objects" in bad(
        tmp_path, json.dumps({"data": ROWS}, indent=1), "a.json"
    )


@pytest.mark.parametrize(
    ("text", "name"), [("{", "a.json"), ("x", "a.jsonl.gz"), ("x", "a.parquet"), ("x", "a.csv")]
)
def test_other_damaged_or_unknown_files_name_themselves(tmp_path, text, name):
    assert name.split(".", 1)[1] in bad(tmp_path, text, name)


def test_a_truncated_gzip_file(tmp_path):
    assert "gzip" in bad(tmp_path, gzip.compress(GOOD.encode() * 50)[:-20], "a.jsonl.gz")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no data file .*nowhere\.jsonl"):
        read_table(tmp_path / "nowhere.jsonl")


def test_too_few_rows_to_hold_any_out(tmp_path):
    table = read_table(write(tmp_path / "a.jsonl", ROWS[:2]))
    assert len(split_examples(table, "train")) == 2
    with pytest.raises(UserError, match="no example is left for split 'dev'"):
        split_examples(table, "dev")


def test_the_hash_is_that_of_the_file(tmp_path):
    first, second = (
        read_table(write(tmp_path / "a.jsonl")),
        read_table(write(tmp_path / "b.jsonl", ROWS[:-1])),
    )
    assert first.sha256 != second.sha256
    assert len(first.sha256) == 64
