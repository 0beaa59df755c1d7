"""The embedded stand-ins and the document files: what they hold, what they are called, and their
splits."""

import ast
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from lfl_jax import assets
from lfl_jax.data import documents, standard_library
from lfl_jax.data.sources import open_source
from lfl_jax.errors import UserError
from lfl_jax.report import describe

SPLITS = ("train", "dev", "test")
STAND_INS = {
    "python_source": "StarCoder-Python",
    "docstring_functions": "Magicoder-Evol-Instruct",
    "math_text": "OpenWebMath",
}


@pytest.fixture(autouse=True)
def library(monkeypatch, tmp_path_factory):
    """A standard library of 60 small files, among files that are none of it."""
    root = tmp_path_factory.mktemp("stdlib")
    text = 'def f{i}(x):\n    """Return x plus {i}, for any x."""\n    # near\n    return x + {i}\n'
    for i in range(60):
        (root / f"m{i:02}").mkdir()
        (root / f"m{i:02}" / "a.py").write_text(text.format(i=i))
    for folder in (
        "test",
        "m00/tests",
        "idlelib",
        "lib2to3",
        "site-packages/x",
        "config-3.11",
        "__pycache__",
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / "b.py").write_text("secret = 1\n")
    (root / "_sysconfigdata_x.py").write_text("secret = 1\n")
    (root / "empty.py").write_text(" \n")
    (root / "latin.py").write_bytes(b"x = '\xff'\n")
    monkeypatch.setattr(standard_library, "home", lambda: root)
    caches = (standard_library.files, standard_library.functions)
    for cache in caches:
        cache.cache_clear()
    yield root
    for cache in caches:
        cache.cache_clear()


def test_files_are_in_order_and_nothing_else_is_read():
    names = [name for name, _ in standard_library.files()]
    assert names == [f"m{i:02}/a.py" for i in range(60)]
    assert not any("secret" in text for _, text in standard_library.files())


@pytest.mark.parametrize("name", STAND_INS)
def test_splits_share_no_cluster(make_data, name):
    data = make_data(source=name, size=40)
    clusters = [{e.cluster for e in open_source(data, split, 0).examples} for split in SPLITS]
    assert all(clusters)
    assert sum(map(len, clusters)) == len(set.union(*clusters))
    with pytest.raises(UserError, match="unknown split 'valid'.*dev"):
        open_source(data, "valid", 0)


@pytest.mark.parametrize(("name", "corpus"), STAND_INS.items())
def test_a_stand_in_is_named_as_one_wherever_it_shows(make_data, name, corpus):
    source = open_source(make_data(source=name, size=4), "train", 0)
    found = source.provenance()
    assert (found["stand_in_for"], found["synthetic"]) == (corpus, name == "math_text")
    assert f"a stand-in for {corpus}" in found["description"]
    assert f"STAND-IN FOR {corpus}" in source.flag
    base = {"dequantised_from": None, "source": "a file"}
    (flag,) = describe.flags({"base": base, "data": found})
    assert f"stand-in for {corpus}" in flag


def test_the_standard_library_has_its_licence_and_hash(make_data, library):
    first = open_source(make_data(source="python_source"), "train", 0)
    assert (first.licence, len(first.sha256), first.seed) == ("PSF-2.0", 64, None)
    (library / "m07" / "a.py").write_text("x = 2\n")
    standard_library.files.cache_clear()
    assert open_source(make_data(source="python_source"), "train", 0).sha256 != first.sha256


def test_documents_have_no_prompt(make_data):
    for name in ("python_source", "math_text"):
        examples = open_source(make_data(source=name, size=40), "train", 0).examples
        assert {e.prompt for e in examples} == {""}
        assert all(e.response.strip() for e in examples)


def test_both_sources_of_code_hold_out_the_same_files(make_data):
    for split in SPLITS:
        files, functions = (
            {e.cluster for e in open_source(make_data(source=name), split, 0).examples}
            for name in ("python_source", "docstring_functions")
        )
        assert functions == files


def test_a_function_is_its_signature_with_docstring_and_its_body(make_data):
    example = open_source(make_data(source="docstring_functions"), "train", 0).examples[0]
    number = int(example.cluster[1:3])
    assert example.prompt == f'def f{number}(x):\n    """Return x plus {number}, for any x."""\n'
    assert example.response == f"    # near\n    return x + {number}"
    assert example.id == f"{example.cluster}:1"


FUNCTIONS = '''
class C:
    @decorated
    async def method(self,
                     x):
        """About twenty letters here."""
        text = """
left margin"""
        return text

    def nothing(self):
        """About twenty letters here."""
        pass

    def refuses(self):
        """About twenty letters here."""
        raise NotImplementedError

    def bare(self):
        return "no docstring at all in here"

def short(x):
    """Few."""
    return x + x + x

def one(x): "About twenty letters here."; return x
'''


def test_methods_move_to_the_margin_and_what_does_nothing_is_left_out():
    (found,) = standard_library.functions_of("m.py", FUNCTIONS)
    assert found.prompt.startswith("async def method(self,\n")
    assert found.response == '    text = """\nleft margin"""\n    return text'
    ast.parse(found.prompt + found.response)
    assert standard_library.functions_of("m.py", "def f(:\n") == []


def test_every_function_of_the_real_library_is_python(monkeypatch):
    monkeypatch.undo()
    standard_library.files.cache_clear()
    files = [
        (name, text)
        for name, text in standard_library.files()
        if name.startswith(("json/", "textwrap", "statistics"))
    ]
    found = [example for file in files for example in standard_library.functions_of(*file)]
    assert len(found) > 20
    for example in found:
        ast.parse(example.prompt + example.response)
        ast.parse(example.prompt + "    pass")


def test_running_text_holds_question_working_and_answer(make_data):
    text = open_source(make_data(source="math_text", size=3), "train", 0).examples[0].response
    question, worked = text.split("\n\n")
    assert question.endswith(("?", "."))
    assert "####" not in text
    assert worked.rsplit(" The answer is ", 1)[1].endswith(".")


def test_running_text_is_drawn_again_the_same(make_data):
    data = make_data(source="math_text", size=9)
    for split in SPLITS:
        first, again, other = (list(open_source(data, split, seed).examples) for seed in (0, 0, 1))
        assert first == again != other
        assert len({e.response for e in first}) == 9


ROWS = [{"url": f"u{i}", "text": f"Document {i}."} for i in range(2500)]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path, rows=ROWS):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.json.gz"])
def test_every_format_of_documents_gives_every_row_once(cache, tmp_path, name):
    files = [write(tmp_path / name), write(tmp_path / f"b{name[1:]}", [{"content": "code"}])]
    found = [e for split in SPLITS for e in documents.read_documents(files, split)]
    assert sorted(e.response for e in found) == sorted([row["text"] for row in ROWS] + ["code"])
    assert {e.prompt for e in found} == {""}
    assert {e.id for e in found} == {f"{name}:{i}" for i in range(1, 2501)} | {f"b{name[1:]}:1"}
    assert len(list(cache.rglob("*.arrow*"))) == 2


def test_splits_of_documents_do_not_move_when_the_file_is_read_again(cache, tmp_path):
    file = write(tmp_path / "a.jsonl")
    first, again = (list(documents.read_documents([file], "dev")) for _ in range(2))
    assert first == again
    assert len(first) == 50


def test_a_changed_file_is_written_again(cache, tmp_path):
    file = write(tmp_path / "a.jsonl")
    documents.read_documents([file], "train")
    write(file, ROWS[:40])
    assert len(documents.read_documents([file], "train")) == 38


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"text": "x"}\n\n{"tex', r"a.jsonl:3: not valid JSON"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": 3}\n',
            "a.jsonl:2: field 'text' is missing or no text",
        ),
        (
            "a.jsonl",
            b'{"prompt": "x"}\n',
            "found the fields prompt; documents need text or content",
        ),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: expected an object"),
        ("a.json.gz", b"x", "damaged gzip"),
        ("a.json.gz", gzip.compress(b'{"text": "x"}\n' * 50, mtime=0)[:-20], "damaged gzip"),
        ("a.parquet", b"x", "not a readable Parquet file"),
        ("a.txt", b"x", "no documents in"),
    ],
)
def test_files_that_are_no_documents(cache, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        documents.read_documents([tmp_path / name], "train")
    assert not list(cache.rglob("*.arrow*")), "nothing half written"


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_blank_documents_are_left_out(cache, tmp_path, name):
    rows = [{"text": " "}, {"text": "one"}, {"text": ""}, {"text": "two"}, {"text": "three"}]
    files = [write(tmp_path / name, rows)]
    found = [e for split in SPLITS for e in documents.read_documents(files, split)]
    assert sorted((e.response, e.id) for e in found) == [
        ("one", f"{name}:1"),
        ("three", f"{name}:3"),
        ("two", f"{name}:2"),
    ]


def test_too_few_documents_to_hold_any_out(cache, tmp_path):
    with pytest.raises(UserError, match="no document is left for split 'dev'"):
        documents.read_documents([write(tmp_path / "a.jsonl", ROWS[:2])], "dev")


@pytest.mark.parametrize(
    "name", ["documents", "python_source", "math_text", "c4", "openwebmath", "starcoder_python"]
)
def test_a_file_of_documents_takes_the_place_of_a_source(cache, make_data, tmp_path, name):
    source = open_source(make_data(source=name, path=str(write(tmp_path / "a.jsonl"))), "train", 0)
    assert (source.synthetic, source.stand_in_for, len(source.examples), len(source.sha256)) == (
        False,
        None,
        2400,
        64,
    )


def test_a_file_of_pairs_takes_the_place_of_functions(make_data, tmp_path):
    path = write(
        tmp_path / "math.jsonl",
        [{"problem": f"p{i}", "solution": "s", "level": "1"} for i in range(9)],
    )
    source = open_source(make_data(source="docstring_functions", path=str(path)), "train", 0)
    assert source.examples[0].response == "s", "MATH's own fields"


def test_fetched_documents_carry_the_licence_and_hashes_of_their_item(cache, make_data):
    folder = cache / "openwebmath"
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    write(folder / "data" / "1.parquet")
    write(folder / "data" / "0.parquet", ROWS[:50])
    with assets.cache.staging() as staged:
        (folder / "data").rename(staged / "data")
        folder.rmdir()
        assets.cache.install(staged, assets.manifest()["openwebmath"])
    source = open_source(make_data(source="openwebmath"), "train", 0)
    assert (source.licence, len(source.examples)) == ("ODC-By-1.0", 2550 - 2 * 51)
    assert source.examples[0].id.startswith("0.parquet:")
    assert len(source.sha256) == 64


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("c4", "c4"),
        ("starcoder_python", "starcoder-python"),
        ("magicoder", "magicoder-evol-instruct-110k"),
    ],
)
def test_what_is_not_fetched_says_how_to(cache, make_data, name, item):
    with pytest.raises(UserError, match=f"lfl_jax.fetch {item}"):
        open_source(make_data(source=name), "train", 0)


def test_documents_need_a_path(make_data):
    with pytest.raises(UserError, match="needs config.data.path"):
        open_source(make_data(source="documents"), "train", 0)
