"""Readers: requests give back the original documents, and every file form gives the same rows."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from toy_manifest import FILES, TEXT, pretend

from lfl_jax import assets
from lfl_jax.assets import cache, readers
from lfl_jax.errors import UserError

ROWS = [{"id": 1, "text": "one", "choices": ["a", "b"]}, {"id": 2, "text": "zwei ü", "choices": []}]


@pytest.fixture
def shelve(tmp_path, monkeypatch):
    """Puts a folder of files into a cache as the item `name`."""

    def put(name, write):
        monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))
        text = TEXT.replace(FILES, "{}").replace("toy", name)
        item = pretend(monkeypatch.setattr, text, name)
        staged = tmp_path / "cache" / "staged"
        staged.mkdir(parents=True)
        write(staged)
        return cache.install(staged, item)

    return put


def write_gzipped(file, rows):
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def write_arrow(file, rows):
    table = pyarrow.Table.from_pylist(rows)
    with (
        pyarrow.OSFile(str(file), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)


FORMS = {
    "rows.jsonl": lambda file, rows: file.write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    ),
    "rows.jsonl.gz": write_gzipped,
    "rows.json": lambda file, rows: file.write_text(json.dumps(rows)),
    "rows.arrow": write_arrow,
    "rows.parquet": lambda file, rows: pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), file
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_file_form_gives_the_same_rows(shelve, form):
    def write(folder):
        FORMS[form](folder / form, ROWS)
        (folder / "LICENSE").write_text("not data")

    shelve("toy", write)
    assert readers.docs("toy") == ROWS


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_cannot_be_read_is_named(shelve, form):
    place = shelve("toy", lambda folder: (folder / form).write_bytes(b"\x00 nothing of the kind"))
    with pytest.raises(UserError, match=f"{place / form} cannot be read"):
        readers.docs("toy")


def request(doc_id, idx, doc):
    return {
        "doc_id": doc_id,
        "idx": idx,
        "doc": doc,
        "request": {"context": "", "continuation": ""},
    }


def test_requests_give_each_document_once_without_what_was_added(shelve):
    docs = [
        {"id": "x", "query": "q", "choices": ["a", "b"], "gold": 1, "added": 0} for _ in range(2)
    ]
    rows = [request(doc_id, idx, doc) for doc_id, doc in enumerate(docs) for idx in range(2)]
    rows += [request(readers.UNCONDITIONAL + doc_id, 0, doc) for doc_id, doc in enumerate(docs)]
    shelve("arc-challenge", lambda folder: write_gzipped(folder / "requests.jsonl.gz", rows))
    wanted = {"id": "x", "query": "q", "choices": ["a", "b"], "gold": 1}
    assert readers.docs("arc-challenge") == [wanted, wanted], (
        "two equal questions are two questions"
    )


def test_the_shots_come_out_of_the_prompt(shelve):
    shots = "Question: 1+1?\nAnswer: It is 2. So the answer is 2.\n\nQuestion: 2+2?\nAnswer: 4.\n\n"
    context = shots + "Question: the problem\nAnswer:"
    row = request(0, 0, {}) | {"request": {"context": context}}
    shelve("gsm8k-test", lambda folder: write_gzipped(folder / "requests.jsonl.gz", [row]))
    assert readers.gsm8k_cot_shots() == [("1+1?", "It is 2. So the answer is 2."), ("2+2?", "4.")]


COUNTS = {
    "gsm8k-test": (1319, {"question", "answer"}),
    "hellaswag": (10042, {"ind", "activity_label", "ctx_a", "ctx_b", "endings", "label"}),
    "winogrande": (1267, {"sentence", "option1", "option2", "answer"}),
    "arc-challenge": (1172, {"id", "query", "choices", "gold"}),
    "math-test": (5000, {"problem", "solution", "answer", "level", "type"}),
    "mbpp-test": (500, {"task_id", "text", "code", "test_list"}),
    "humaneval": (164, {"task_id", "prompt", "entry_point", "canonical_solution", "test"}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_fetched_datasets_have_their_published_size_and_fields(name):
    if not assets.is_cached(name):
        pytest.skip(f"{name} is not fetched: python -m lfl_jax.fetch {name}")
    count, fields = COUNTS[name]
    docs = readers.docs(name)
    assert len(docs) == count
    assert all(fields <= set(doc) for doc in docs)


def test_the_fetched_shots_are_the_eight_of_the_paper():
    if not assets.is_cached("gsm8k-test"):
        pytest.skip("gsm8k-test is not fetched: python -m lfl_jax.fetch gsm8k-test")
    shots = readers.gsm8k_cot_shots()
    assert len(shots) == 8
    assert shots[0][0].startswith("There are 15 trees in the grove.")
    assert all(answer.split()[-4:-1] == ["the", "answer", "is"] for _, answer in shots)


def test_a_file_of_ones_own_in_place_of_a_fetched_one(tmp_path, shelve):
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"id": 9}\n')
    read = readers.with_files({"other": str(mine)})
    assert read("other") == [{"id": 9}]
    with pytest.raises(UserError, match="toy is not fetched"):
        shelve("toy", lambda folder: None)
        (tmp_path / "cache" / "toy" / "item.json").unlink()
        read("toy")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"name": name}]))
    assert [row["name"] for row in readers.from_path(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("name", ["nothing", "nothing.jsonl", "plain.txt"])
def test_nothing_to_read(tmp_path, name):
    (tmp_path / "plain.txt").write_text("x")
    with pytest.raises(UserError, match=r"no data file|cannot read \.txt"):
        readers.from_path(tmp_path / name)


def test_a_damaged_file_of_ones_own_is_not_to_be_fetched_again(tmp_path):
    (tmp_path / "mine.jsonl").write_text("{")
    with pytest.raises(
        UserError, match=r"mine\.jsonl:1: not valid JSON .*; expected one object a line$"
    ):
        readers.from_path(tmp_path / "mine.jsonl")


@pytest.mark.parametrize(
    "change",
    [lambda b: b + b"\n \n", lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n")],
)
def test_blank_lines_byte_order_marks_and_windows_line_ends_are_no_content(tmp_path, change):
    mine = tmp_path / "mine.jsonl"
    mine.write_bytes(change(b'{"text": "one"}\n{"text": "two"}\n'))
    assert readers.from_path(mine) == [{"text": "one"}, {"text": "two"}]
    assert readers.texts(mine) == ["one", "two"]


def test_a_column_that_an_evaluation_reads_and_a_file_lacks_is_named_with_those_it_has(tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"q": "1+1?", "a": "2"}\n')
    (doc,) = readers.with_files({"gsm8k-test": str(mine)})("gsm8k-test")
    with pytest.raises(UserError, match=r"mine\.jsonl: no column 'question', .* found q, a"):
        doc["question"]


def test_texts_are_paragraphs_or_rows(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\n three \n")
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in ("one\n\ntwo", " ", "three "))
    )
    assert readers.texts(tmp_path / "a.txt") == ["one\ntwo", "three"]
    assert readers.texts(tmp_path / "a.jsonl") == ["one\n\ntwo", "three"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n\n ", "the file has no text"),
        ("a.txt", b"\xff", "cannot read it as UTF-8 text"),
        ("a.jsonl", b'{"content": "x"}', "no column 'text', .* found content"),
        ("a.jsonl", b'{"text": 1}', 'every row needs a field "text"'),
        ("a.jsonl", b"{", "not valid JSON"),
    ],
)
def test_no_texts(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        readers.texts(tmp_path / name)
