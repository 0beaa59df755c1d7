"""Data files as they are published, read as they are: each in a few rows of its published shape."""

import json

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from lfl_jax.data.columns import PAIRS
from lfl_jax.data.formatting import find_template
from lfl_jax.data.sources import open_source
from lfl_jax.errors import UserError

N = 40


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def saved_to_disk(folder, rows):
    """One Dataset as save_to_disk writes it: Arrow streams, and what they are called in
    state.json."""
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    file = str(folder / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(file, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    state = {
        "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
        "_split": None,
        "_fingerprint": "x",
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def csv(path, rows):
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
    path.write_bytes("\r\n".join(quoted).encode("utf-8-sig"))
    return path


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def human(text, reply):
    return [{"from": "human", "value": text}, {"from": "gpt", "value": reply}]


# name: (writer, file name, row i, conversation of row 3, what is left out)
FORMATS = {
    "GSM8K": (
        lines,
        "train.jsonl",
        lambda i: {
            "question": f"{i} and 1?",
            "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}",
        },
        [("user", "3 and 1?"), ("assistant", "It is <<3+1=4>>4.\n#### 4")],
        "",
    ),
    "MetaMathQA": (
        lambda path, rows: path.write_text(json.dumps(rows)) and path,
        "MetaMathQA-395K.json",
        lambda i: {
            "type": "GSM_Rephrased",
            "query": f"q{i}",
            "original_question": f"o{i}",
            "response": f"r{i}",
        },
        [("user", "q3"), ("assistant", "r3")],
        "type",
    ),
    "Alpaca": (
        lambda path, rows: path.write_text(json.dumps(rows, indent=4)) and path,
        "alpaca_data.json",
        lambda i: {
            "instruction": f"Add to {i}.",
            "input": "" if i % 2 == 0 else f"{i}",
            "output": f"{2 * i}",
        },
        [("user", "Add to 3."), ("input", "3"), ("assistant", "6")],
        "",
    ),
    "Dolly": (
        lines,
        "databricks-dolly-15k.jsonl",
        lambda i: {
            "instruction": "Who?",
            "context": f"King {i}.",
            "response": f"{i}",
            "category": "closed_qa",
        },
        [("user", "Who?"), ("input", "King 3."), ("assistant", "3")],
        "category",
    ),
    "ShareGPT": (
        lambda path, rows: path.write_text(json.dumps(rows)) and path,
        "sharegpt.json",
        lambda i: {
            "id": f"x{i}",
            "conversations": [*human(f"Hi {i}", "Hello."), *human("Bye", "See you.")],
        },
        [("user", "Hi 3"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "See you.")],
        "id",
    ),
    "UltraChat, smoltalk (OpenAI's messages)": (
        parquet,
        "train_sft-00000-of-00001.parquet",
        lambda i: {
            "prompt": f"p{i}",
            "prompt_id": "x",
            "messages": [user(f"p{i}"), assistant(f"a{i}")],
            "source": "s",
        },
        [("user", "p3"), ("assistant", "a3")],
        "prompt, prompt_id, source",
    ),
    "OpenAssistant as prompt and completion": (
        lines,
        "oasst.jsonl",
        lambda i: {"prompt": f"p{i}", "completion": f"c{i}", "lang": "en", "rank": 0},
        [("user", "p3"), ("assistant", "c3")],
        "lang, rank",
    ),
    "SQuAD": (
        parquet,
        "train-00000-of-00001.parquet",
        lambda i: {
            "id": f"{i}",
            "title": "Kings",
            "context": f"King {i}.",
            "question": f"Which ({i})?",
            "answers": {"text": [f"{i}", "other"], "answer_start": [5, 5]},
        },
        [("user", "Which (3)?"), ("input", "King 3."), ("assistant", "3")],
        "id, title",
    ),
    "sql-create-context": (
        lambda path, rows: path.write_text(json.dumps(rows)) and path,
        "sql_create_context_v4.json",
        lambda i: {
            "question": f"How many {i}?",
            "context": f"CREATE TABLE t{i}",
            "answer": f"SELECT {i}",
        },
        [("user", "How many 3?"), ("input", "CREATE TABLE t3"), ("assistant", "SELECT 3")],
        "",
    ),
    "MATH": (
        lines,
        "train.jsonl",
        lambda i: {
            "problem": f"$x={i}$?",
            "level": "Level 5",
            "type": "Algebra",
            "solution": rf"$\boxed{{{i}}}$",
        },
        [("user", "$x=3$?"), ("assistant", r"$\boxed{3}$")],
        "level, type",
    ),
    "Magicoder": (
        lines,
        "data-oss_instruct-decontaminated.jsonl",
        lambda i: {
            "lang": "python",
            "raw_index": i,
            "seed": "x",
            "problem": f"Write f{i}.",
            "solution": f"def f{i}()",
        },
        [("user", "Write f3."), ("assistant", "def f3()")],
        "lang, raw_index, seed",
    ),
    "CSV": (
        csv,
        "mine.csv",
        lambda i: {"question": f"One, two,\nor {i}?", "answer": f'"{i}"', "note": "n"},
        [("user", "One, two,\nor 3?"), ("assistant", '"3"')],
        "note",
    ),
    "save_to_disk": (
        saved_to_disk,
        "saved",
        lambda i: {
            "instruction": f"Greet {i}.",
            "input": "",
            "output": f"Ahoy {i}",
            "system": "You sail.",
        },
        [("system", "You sail."), ("user", "Greet 3."), ("assistant", "Ahoy 3")],
        "input",
    ),
    "LLaMA-Factory's Alpaca with history": (
        lines,
        "history.jsonl",
        lambda i: {
            "instruction": f"And {i}?",
            "input": "",
            "output": "7",
            "history": [[f"Take {i}.", "Done."]],
        },
        [("user", "Take 3."), ("assistant", "Done."), ("user", "And 3?"), ("assistant", "7")],
        "",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_published_file_is_read_as_it_is(tmp_path, make_data, name):
    write, file, row, expected, left_out = FORMATS[name]
    path = write(tmp_path / file, [row(i) for i in range(N)])
    data = make_data(path=str(path))
    splits = [open_source(data, split, 0) for split in ("train", "dev", "test")]
    found = {e.id.rpartition(":")[2]: e for source in splits for e in source.examples}
    assert len(found) >= N - 1, "every row, in one split or another"
    assert list(find(splits, expected).conversation) == expected
    for column in filter(None, left_out.split(", ")):
        assert column in splits[0].columns
    find_template("chatml").render_turns(find(splits, expected).conversation)


def find(splits, expected):
    """The example with the response and prompt expected."""
    everything = [e for source in splits for e in source.examples]
    return next(e for e in everything if list(e.conversation) == expected)


def test_what_is_used_and_left_out_is_said_and_recorded(tmp_path, make_data):
    write, file, row, _, _ = FORMATS["Dolly"]
    source = open_source(
        make_data(path=str(write(tmp_path / file, [row(i) for i in range(N)]))), "train", 0
    )
    assert (
        source.columns
        == "prompt=instruction, response=response, context=context; left out: category"
    )
    assert source.provenance()["columns"] == source.columns


OWN = {"q": "Who?", "a": "Me.", "facts": "I am.", "rules": "Be brief."}


def opened(tmp_path, make_data, row, columns):
    rows = [
        {name: f"{value} {i}" if name == "q" else value for name, value in row.items()}
        for i in range(5)
    ]
    return open_source(
        make_data(path=str(lines(tmp_path / "own.jsonl", rows)), columns=columns), "train", 0
    )


def test_columns_of_any_name_are_mapped_by_role(tmp_path, make_data):
    source = opened(tmp_path, make_data, OWN, "prompt=q, response=a, context=facts, system=rules")
    turns = source.examples[0].conversation
    assert [role for role, _ in turns] == ["system", "user", "input", "assistant"]
    assert [text for _, text in turns][::2] == ["Be brief.", "I am."]
    assert source.columns == "prompt=q, response=a, context=facts, system=rules"


def test_a_column_may_be_left_out_on_purpose(tmp_path, make_data):
    row = {"question": "Who?", "answer": "Me.", "context": "I am.", "choices": ["a", "b"]}
    with pytest.raises(
        UserError, match=r"own.jsonl:1: the answer may depend on column 'choices'.*columns=-choices"
    ):
        opened(tmp_path, make_data, row, "")
    source = opened(tmp_path, make_data, row, "-choices,-context")
    assert source.columns == "prompt=question, response=answer; left out: context, choices"
    assert source.examples[0].turns == ()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("prompt", "'prompt' is not ROLE=COLUMN"),
        (
            "question=q",
            "'question=q' is not ROLE=COLUMN with a role of its own of prompt, response, messages",
        ),
        ("prompt=q,prompt=a", "'prompt=a' is not ROLE=COLUMN"),
        (
            "prompt=nothing,response=a",
            "no column 'nothing', which config.data.columns names; found q, a",
        ),
        (
            "",
            "found the fields a, facts, q, rules; expected messages or conversations, or a pair of"
            " prompt/response",
        ),
    ],
)
def test_a_mapping_that_cannot_be_is_answered(tmp_path, make_data, columns, message):
    with pytest.raises(UserError, match=message):
        opened(tmp_path, make_data, OWN, columns)


@pytest.mark.parametrize(("prompt", "response"), PAIRS)
def test_every_known_pair_is_read(tmp_path, make_data, prompt, response):
    source = opened(tmp_path, make_data, {prompt: "p", response: "r", "extra": "x"}, "")
    found = source.examples[0]
    assert (found.prompt, found.response, found.turns) == ("p", "r", ())
