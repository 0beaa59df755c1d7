"""Files of rows: forms, packing, folders and splits, and what is refused by name."""

import gzip
import json

import pyarrow
import pyarrow.ipc
import pytest

from lfl_jax.assets import table_readers, tables
from lfl_jax.errors import UserError

ROWS = [{"text": f"row {i} é", "n": str(i)} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


def delimited(separator):
    return "\n".join(
        separator.join(row) for row in [["text", "n"], *(list(r.values()) for r in ROWS)]
    ).encode()


def arrow(data, new):
    sink, table = pyarrow.BufferOutputStream(), pyarrow.Table.from_pylist(data)
    with new(sink, table.schema) as out:
        out.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


FORMS = {
    "a.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.zst": zstd(LINES),
    "two_frames.jsonl.zst": zstd(LINES[:40]) + zstd(LINES[40:]),
    "lines.json": LINES,
    "array.json": json.dumps(ROWS).encode(),
    "array.json.zst": zstd(json.dumps(ROWS, indent=1).encode()),
    "a.csv": delimited(","),
    "semicolons.csv": delimited(";"),
    "a.csv.gz": gzip.compress(delimited(",")),
    "a.tsv": delimited("\t"),
    "stream.arrow": arrow(ROWS, pyarrow.ipc.new_stream),
    "file.arrow": arrow(ROWS, pyarrow.ipc.new_file),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows_in_random_access(tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name])
    table = tables.read_table(tmp_path / name)
    assert list(table) == ROWS
    assert table[4] == ROWS[4]
    assert table.place(0) == f"{name}:{2 if 'csv' in name or 'tsv' in name else 1}"


@pytest.mark.parametrize("name", ["a.jsonl", "lines.json", "array.json", "a.csv"])
@pytest.mark.parametrize(
    "change",
    [lambda b: b"\xef\xbb\xbf" + b, lambda b: b + b"\n\n", lambda b: b.replace(b"\n", b"\r\n")],
)
def test_byte_order_marks_blank_lines_and_windows_line_ends_are_no_content(tmp_path, name, change):
    (tmp_path / name).write_bytes(change(FORMS[name]))
    assert list(tables.read_table(tmp_path / name)) == ROWS


def check_refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(tables.read_table(path))
    assert "\n" not in str(error.value)


HALF = b'{"text": "cut \\ud83d here"}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES + HALF, r"a.jsonl:6: \\ud83d is half of a character"),
        ("a.json", b"[1, " + HALF + b"]", r"a.json:2: \\ud83d is half"),
        ("a.jsonl", b'{"text": "\xed\xa0\xbd"}', "a.jsonl:1: not valid JSON"),
        (
            "a.jsonl",
            LINES.decode().encode("utf-16"),
            "a.jsonl: the file is UTF-16; save it as UTF-8",
        ),
        ("a.jsonl.zst", zstd(LINES * 50)[:-20], "damaged Zstandard file"),
        ("a.jsonl.gz", gzip.compress(LINES * 50)[:-20], "damaged gzip file"),
        ("a.csv", b"text,n\none\n", r"a.csv:2: 1 cells under 2 columns \(text, n\)"),
        ("a.csv", b"text\n\xff\xfe\n", "a.csv: not a table in UTF-8 text"),
        ("a.arrow", b"x" * 50, "a.arrow: not a readable Arrow file"),
        ("a.parquet.gz", b"x", "cannot read .parquet"),
        ("a.txt", b"x", "cannot read .txt; known: .jsonl, .json, .csv"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "a.jsonl:1: not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    check_refused(tmp_path / name, content, message)


def test_an_escaped_pair_is_a_whole_character(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00"}')
    assert list(tables.read_table(tmp_path / "a.jsonl")) == [{"text": "\N{GRINNING FACE}"}]


@pytest.fixture
def folder(tmp_path):
    """A folder of one-row files of these names."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(
                json.dumps({"text": name}) if is_table(name) else "not data"
            )
        return tmp_path

    is_table = table_readers.is_table
    return make


def texts(splits):
    return {split: [row["text"] for row in table] for split, table in splits.items()}


def test_shards_are_one_table_in_the_order_of_their_names(folder):
    found = tables.open_splits(
        folder("part-1.jsonl", "part-0.jsonl", "README.md", ".cache/x.jsonl")
    )
    assert texts(found) == {"train": ["part-0.jsonl", "part-1.jsonl"]}
    assert found["train"].place(1) == "part-1.jsonl:1"


def test_names_and_folders_tell_splits(folder):
    place = folder(
        "data/train-00000-of-00002.jsonl",
        "data/train-00001-of-00002.jsonl",
        "data/validation.jsonl",
    )
    assert texts(tables.open_splits(place)) == {
        "train": ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"],
        "dev": ["data/validation.jsonl"],
    }


def test_a_folder_for_each_split(folder):
    assert texts(tables.open_splits(folder("train/a.jsonl", "test/a.jsonl"))) == {
        "test": ["test/a.jsonl"],
        "train": ["train/a.jsonl"],
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "expected data files of one kind, found none"),
        (("a.jsonl", "b.json"), "expected data files of one kind, found both .json and .jsonl"),
        (
            ("train_sft-0.jsonl", "train_gen-0.jsonl"),
            "train_gen and train_sft would all be split train; name one",
        ),
        (
            ("main/train.jsonl", "socratic/train.jsonl"),
            "main/train and socratic/train would all be split train",
        ),
        (("train.jsonl", "other.jsonl"), "other.jsonl is of no known split, but others are"),
    ],
)
def test_a_folder_that_could_be_meant_in_two_ways_is_refused(folder, names, message):
    with pytest.raises(UserError, match=message):
        tables.open_splits(folder(*names))


def save(folder, rows, **state):
    folder.mkdir(parents=True)
    (folder / "data-00000-of-00001.arrow").write_bytes(arrow(rows, pyarrow.ipc.new_stream))
    files = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(files | state))


def test_a_dataset_dict_has_its_splits(tmp_path):
    (tmp_path / "dataset_dict.json").write_text(
        '{"splits": ["train", "validation", "unlabelled_part"]}'
    )
    save(tmp_path / "train", ROWS[:3])
    save(tmp_path / "validation", ROWS[3:])
    with pytest.raises(UserError, match="unlabelled_part is of no known split"):
        tables.open_splits(tmp_path)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    found = tables.open_splits(tmp_path)
    assert {split: len(table) for split, table in found.items()} == {"train": 3, "dev": 2}


def test_rows_picked_from_saved_files_would_be_read_wrongly(tmp_path):
    save(tmp_path / "saved", ROWS, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(UserError, match="flatten_indices"):
        tables.open_splits(tmp_path / "saved")


def test_the_hash_of_several_files_follows_each(folder):
    place = folder("a.jsonl", "b.jsonl")
    first = tables.open_splits(place)["train"].sha256
    (place / "b.jsonl").write_text('{"text": "other"}')
    assert tables.open_splits(place)["train"].sha256 != first
