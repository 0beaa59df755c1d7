"""Files of other people: whatever is wrong with one, it is refused in a line that names it."""

import json
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lfl_jax.configs import base
from tokenizers import Tokenizer, models

from lfl_jax.assets import hub_names, table_splits
from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.data import documents, rows
from lfl_jax.errors import UserError
from lfl_jax.io import hf, workdir
from lfl_jax.text import jinja, sentence_pieces
from lfl_jax.text.tokenizers import from_folder

DEEP = "[" * 100_000
NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(struct.pack("<2i", 0, 1)), pa.py_buffer(b"\xff")]
)
COLUMNS = {
    "numbers": [1],
    "bytes": [b"\xff"],
    "text that is no UTF-8": NOT_UTF8,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))


def refused(call):
    with pytest.raises(UserError) as error:
        call()
    said = str(error.value)
    assert "\n" not in said and len(said) < 600
    return said


@pytest.mark.parametrize("column", COLUMNS)
def test_columns_of_parquet_that_are_no_text(tmp_path, column):
    file = tmp_path / "d.parquet"
    names = dict.fromkeys(("text", "question", "answer"), COLUMNS[column])
    pq.write_table(pa.table(names), file)
    assert "d.parquet" in refused(lambda: documents.read_documents([file], "train"))
    assert "d.parquet" in refused(lambda: list(rows.read_split(file, "train")))


@pytest.mark.parametrize("role", [7, None, {"a": 1}, ["user"]])
def test_roles_that_are_no_text(tmp_path, role):
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"messages": [{"role": role, "content": "a"}]}) + "\n")
    assert "unknown role" in refused(lambda: rows.read_split(file, "train"))


@pytest.mark.parametrize("line", ["7", "null", "[1]", DEEP])
def test_records_that_are_no_objects(tmp_path, line):
    file = tmp_path / "r.jsonl"
    file.write_text(line + "\n")
    assert "r.jsonl:1" in refused(lambda: files.read_jsonl(file))


@pytest.mark.parametrize(
    "state", ["{}", '{"_data_files": 7}', '{"_data_files": [[]]}', '{"_data_files": []}']
)
def test_the_state_of_a_saved_dataset(tmp_path, state):
    (tmp_path / "state.json").write_text(state)
    assert "state.json" in refused(lambda: table_splits.files_by_split(tmp_path))


@pytest.mark.parametrize(
    "configs", [7, ["a"], [{"data_files": 7}], [{"data_files": [{"split": "train"}]}]]
)
def test_cards_of_datasets(configs):
    name = hub_names.parse("hf:datasets/org/name:train")
    said = refused(lambda: hub_names.choose(name, ["a/train.jsonl"], {"configs": configs}))
    assert "hf:datasets/org/name:train" in said


def folder(place, tokenizer=None, settings=None, template=b""):
    vocabulary = {chr(c): c - 97 for c in range(97, 123)} | {"</s>": 26}
    tree = json.loads(Tokenizer(models.BPE(vocabulary, [])).to_str()) | (tokenizer or {})
    (place / "tokenizer.json").write_text(json.dumps(tree))
    (place / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>"} | (settings or {}))
    )
    if template:
        (place / "chat_template.jinja").write_bytes(template)
    return from_folder(place)


def rendered(tokenizer):
    return jinja.render(
        tokenizer.chat_template, [{"role": "user", "content": "u"}], True, tokenizer
    )


@pytest.mark.parametrize("value", [7, [7], [{"content": 1}], [{"name": "x", "template": "y"}]])
def test_chat_templates_that_are_none(tmp_path, value):
    said = refused(lambda: rendered(folder(tmp_path, settings={"chat_template": value})))
    assert "chat_template is a" in said


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ x.y }}",
        "{{ 1/0 }}",
        "{{ range(10**9) }}",
        "{% include 'x' %}",
        "{{ [][0].a }}",
        "{{ 'a' + 1 }}",
        "{{ 7() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_chat_templates_that_fail(tmp_path, template):
    tokenizer = folder(tmp_path, settings={"chat_template": template})
    assert "the tokenizer's chat template" in refused(lambda: rendered(tokenizer))


def test_a_chat_template_that_is_no_text(tmp_path):
    assert "chat_template.jinja: not UTF-8" in refused(lambda: folder(tmp_path, template=b"\xff"))


def test_a_tokenizer_that_its_library_panics_on(tmp_path):
    broken = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    assert "not a tokenizer.json" in refused(lambda: folder(tmp_path, tokenizer=broken))


def test_a_piece_of_an_unknown_type():
    metadata = {
        "GGUF.path": "m.gguf",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.scores": [0.0, 0.0],
        "tokenizer.ggml.token_type": [1, 77],
    }
    assert "m.gguf: token 'b' is of unknown type 77" in refused(
        lambda: sentence_pieces.from_gguf(metadata)
    )


SHAPE = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 9,
    "intermediate_size": 8,
}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("layer_types", 7, "expected a list of names"),
        ("layer_types", [1], "expected a list of names"),
        ("rope_theta", 10**400, "expected a positive number"),
        ("tie_word_embeddings", "false", "expected true or false"),
        ("attention_bias", "no", "expected true or false"),
        ("mlp_bias", 1, "expected true or false"),
    ],
)
def test_fields_of_a_model_s_config(tmp_path, field, value, words):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE | {field: value}))
    said = refused(lambda: hf.read_config(tmp_path))
    assert "config.json" in said and field in said and words in said


def test_a_number_of_a_run_s_config_that_no_float_holds():
    values = base.base().to_dict()
    values["optim"]["lr"] = 10**400
    assert "config.optim.lr" in refused(lambda: Config.from_dict(values))


def test_a_config_that_is_nested_too_deep(tmp_path):
    (tmp_path / "config.json").write_text(DEEP)
    assert "config.json" in refused(lambda: hf.read_config(tmp_path))
    assert "was not written by a run" in refused(lambda: workdir.read_config(tmp_path))
