"""Readers of data people give: tables, documents, saved datasets, cards, and the cache's stamps."""

import csv
import functools
import gzip
import io
import itertools
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import toy_manifest

from fuzzing import mutations
from fuzzing.reader import Reader, nothing_wrong
from lfl_jax.assets import cache, hub_names, readers, tables
from lfl_jax.data import documents, rows
from lfl_jax.errors import UserError

ROWS = [
    {"question": f"what is {i} + {i}?", "answer": f"it is {2 * i}", "text": f"text {i}", "n": i}
    for i in range(60)
]
CHAT = [
    {"messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a"}]}
    for i in range(60)
]
BLOCKS = 96  # of 16 MiB, in what unpacks to too much


def _pack(rng, name, data):
    """(name, data) as it is, or packed; some of the packed bytes are damaged."""
    suffix = rng.choice(["", "", ".gz", ".zst"])
    if not suffix:
        return name, data
    packed = gzip.compress(data, 1) if suffix == ".gz" else pa.compress(data, "zstd", asbytes=True)
    return name + suffix, mutations.damaged(rng, packed) if rng.random() < 0.4 else packed


@functools.cache
def bomb(suffix, unit):
    """A small file that unpacks to more than a gigabyte: the same packed block again and again."""
    block = unit * ((1 << 24) // len(unit))
    if suffix == ".gz":
        return gzip.compress(block, 9) * BLOCKS
    packed = io.BytesIO()
    with pa.CompressedOutputStream(packed, "zstd") as out:
        for _ in range(BLOCKS):
            out.write(block)
        out.flush()
        return packed.getvalue()


def write_table(rng, folder):
    values = ROWS if rng is None else rng.choice([ROWS, ROWS, CHAT])
    if rng is None:
        (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
        return
    if rng.random() < 0.01:
        suffix = rng.choice([".gz", ".zst"])
        data = bomb(suffix, rng.choice([b"\n", b"a", b'{"text": "a"}\n']))
        (folder / f"d.jsonl{suffix}").write_bytes(data)
        return
    kind = rng.choice([".jsonl", ".jsonl", ".json", ".csv", ".tsv"])
    if kind == ".jsonl":
        data = mutations.lines_bytes(rng, values)
    elif kind == ".json":
        data = mutations.json_bytes(rng, values)
    else:
        data = _csv(rng, "\t" if kind == ".tsv" else rng.choice(",;"))
    name, data = _pack(rng, f"d{kind}", data)
    (folder / name).write_bytes(data)


def _csv(rng, delimiter):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=rng.choice(["\n", "\r\n"]))
    cells = [list(ROWS[0]), *([str(x) for x in row.values()] for row in ROWS)]
    for _ in range(rng.choice([0, 1, 1])):
        row = rng.choice(cells)
        match rng.choice(["cell", "more", "less", "quote", "head"]):
            case "cell":
                row[rng.randrange(len(row))] = rng.choice(["", "x" * 200_000, "a\x00b", '"', "\r"])
            case "more":
                row.append("x")
            case "less":
                row.pop()
            case "quote":
                row[0] = 'say "hi'
            case "head":
                cells[0] = [rng.choice(["", "question", "a"]) for _ in cells[0]]
    writer.writerows(cells)
    data = out.getvalue().encode()
    return mutations.damaged(rng, data) if rng.random() < 0.6 else data


COLUMNS = [
    [1, 2], [1.5, None], [b"\xff", b"a"], [None, None], [["a"], []], [{"text": ["a"]}, None],
    [True, False], ["", " "], ["a\x00", "\u202e"], [[{"role": "user", "content": "a"}], None],
]  # fmt: skip


def write_arrow(rng, folder):
    """Parquet, and Arrow streams and files: wrong columns, and damaged bytes."""
    names = ["question", "answer", "text"]
    columns = {name: [row[name] for row in ROWS] for name in names}
    if rng is not None and rng.random() < 0.5:
        values = rng.choice(COLUMNS)
        columns[rng.choice(names)] = (values * 30)[:60]
    if rng is not None and rng.random() < 0.1:
        columns = {rng.choice(names): columns["text"]}
    table, out = pa.table(columns), io.BytesIO()
    suffix = ".parquet" if rng is None else rng.choice([".parquet", ".parquet", ".arrow"])
    if rng is not None and rng.random() < 0.01:
        suffix, table = ".parquet", None
        out.write(parquet_bomb())
    elif suffix == ".parquet":
        codec = "snappy" if rng is None else rng.choice(["none", "snappy", "zstd", "gzip"])
        pq.write_table(table, out, compression=codec)
    else:
        new = rng.choice([pa.ipc.new_stream, pa.ipc.new_file])
        with new(out, table.schema) as writer:
            writer.write_table(table)
    data = out.getvalue()
    damage = rng is not None and table is not None and rng.random() < 0.6
    (folder / f"d{suffix}").write_bytes(mutations.damaged(rng, data) if damage else data)


@functools.cache
def parquet_bomb():
    """Many equal rows: a dictionary of one value and runs of its number."""
    out = io.BytesIO()
    indices = pa.array(np.zeros(1_000_000, np.int32))
    columns = [pa.DictionaryArray.from_arrays(indices, pa.array(["text " * 40]))] * 3
    table = pa.table(columns, names=["question", "answer", "text"])
    with pq.ParquetWriter(out, table.schema) as writer:
        for _ in range(15):
            writer.write_table(table)
    return out.getvalue()


def read_tables(folder):
    """As instructions, as documents, and as an evaluation's items: each may refuse it."""
    (file,) = folder.glob("d.*")
    os.environ["LFL_CACHE"] = str(folder / "cache")
    return every(
        lambda: [row.text for row in itertools.islice(rows.read_split(file, "train"), 2)],
        lambda: documents.read_documents([file], "train", "")[0].text,
        lambda: list(itertools.islice(tables.read_table(file), 2)),
        lambda: readers.from_path(file)[:2],
        lambda: readers.texts(file)[:2],
    )


class Partly(list):
    """What several readers of one file returned; `refused` is the error of one that did not."""

    refused = None


def every(*calls):
    """Every call's value, as far as there is one."""
    values = Partly()
    for call in calls:
        try:
            values.append(call())
        except UserError as error:
            values.refused = error
    return values


def wrong_text(value, folder):
    """Texts that have no UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        return f"a text with half a character: {error}"
    return ""


def write_saved(rng, folder):
    """A folder of datasets.save_to_disk: dataset_dict.json, or state.json, mutated."""
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as out:
        table = pa.table({"question": ["a", "b"], "answer": ["c", "d"]})
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": None,
             "_fingerprint": "f", "_format_type": None}  # fmt: skip
    is_dict = rng is not None and rng.random() < 0.4
    if is_dict:
        data = mutations.json_bytes(rng, {"splits": ["train", "test"]})
        (folder / "dataset_dict.json").write_bytes(data)
        return
    data = json.dumps(state).encode() if rng is None else mutations.json_bytes(rng, state)
    (folder / "state.json").write_bytes(data)


def read_saved(folder):
    return [row["question"] for row in tables.open_splits(folder)["train"]]


CARD = {
    "license": "mit",
    "configs": [
        {"config_name": "main", "data_files": [{"split": "train", "path": "main/train-*"}]},
        {"config_name": "other", "data_files": "other/*", "data_dir": "other"},
    ],
}
FILES = ["main/train-0.parquet", "main/test-0.parquet", "other/a.jsonl", "README.md"]


def write_card(rng, folder):
    data = (
        json.dumps(CARD).encode() if rng is None else mutations.text_of(mutations.tree(rng, CARD))
    )
    (folder / "card.json").write_bytes(data)


def read_card(folder):
    try:
        card = json.loads((folder / "card.json").read_bytes())
    except RecursionError:
        card = {}
    name = hub_names.parse("hf:datasets/org/name:main:train")
    return hub_names.choose(name, FILES, card if isinstance(card, dict) else {})


def write_stamp(rng, folder):
    os.environ["LFL_CACHE"] = str(folder)
    place = toy_manifest.install(toy_manifest.pretend(setattr))
    stamp = place / cache.STAMP
    if rng is not None and rng.random() < 0.3:
        (place / "a.txt").write_text("other")
    elif rng is not None:
        stamp.write_bytes(mutations.json_bytes(rng, json.loads(stamp.read_text())))


def read_stamp(folder):
    os.environ["LFL_CACHE"] = str(folder)
    toy_manifest.pretend(setattr)
    return cache.path("toy", "a.txt").read_text()


def wrong_stamp(value, folder):
    return "" if value == "first" else "a file that changed after it was fetched"


READERS = {
    "tables": Reader(write_table, read_tables, wrong_text, 2),
    "parquet and arrow": Reader(write_arrow, read_tables, wrong_text, 1.5),
    "saved datasets": Reader(write_saved, read_saved, wrong_text, 0.5),
    "dataset cards": Reader(write_card, read_card, nothing_wrong, 0.5),
    "cache stamps": Reader(write_stamp, read_stamp, wrong_stamp, 0.5),
}
