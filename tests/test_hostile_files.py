"""Files made to fill memory, to run for ever, or to load as something else: refused in a line."""

import gzip
import json
import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures import tiny_gguf
from fuzzing import mutations, of_data, of_models, of_text
from hf_folders import CASES, load
from safetensors.numpy import load_file, save_file

from lfl_jax.assets import compressed, gguf_header, line_index, table_splits, tables
from lfl_jax.data import documents
from lfl_jax.errors import UserError
from lfl_jax.io import gguf, gguf_config, gguf_file, peft
from lfl_jax.report import results_json
from lfl_jax.text import jinja, jinja_process, tokenizers


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))


def refused(call, seconds=30):
    begun = time.monotonic()
    with pytest.raises(UserError) as error:
        call()
    assert time.monotonic() - begun < seconds
    said = str(error.value)
    assert "\n" not in said and len(said) < 600
    return said


# -- regexes and templates


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r"((\w|\.|_)+)+!"},
        {"rank_pattern": {"q_proj": 2, r"((\w|\.|_)+)+!": 4}},
        {"exclude_modules": r".*.*.*.*.*.*.*.*.*.*!"},
    ],
)
def test_a_regex_that_backtracks_without_end(tmp_path, fields):
    of_models.write_peft(None, tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    said = refused(lambda: peft.load(tmp_path, of_models.small_params()))
    assert "backtracks without end" in said and next(iter(fields)) in said


def test_regexes_of_people_are_as_before(tmp_path):
    of_models.write_peft(None, tmp_path)
    file = tmp_path / "adapter_config.json"
    regex = r"(?:.*?(?:vision|model).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": regex}))
    assert peft.load(tmp_path, of_models.small_params()).modules == 4


@pytest.mark.parametrize("template", of_text.TEMPLATES[3:9])
def test_a_template_that_does_not_end(template, monkeypatch):
    monkeypatch.setattr(jinja_process, "SECONDS", 1.0)
    tokenizer = tokenizers.byte_tokenizer()
    said = refused(lambda: jinja.render(template, of_text.MESSAGES[:1], True, tokenizer))
    assert "the tokenizer's chat template" in said
    # The next one is rendered, by another process where that one had to be ended.
    assert jinja.render("{{ 1 + 1 }}", of_text.MESSAGES[:1], True, tokenizer) == "2"


def test_a_panic_of_the_tokenizers_library_is_not_printed(tmp_path, capfd):
    of_text.write_tokenizer(None, tmp_path)
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    for step in of_text.STEPS[:2]:
        (tmp_path / "tokenizer.json").write_text(json.dumps(tree | {"normalizer": step}))
        assert "not a tokenizer.json" in refused(lambda: tokenizers.from_folder(tmp_path))
    assert capfd.readouterr().err == ""


def test_a_character_map_that_claims_gigabytes(tmp_path):
    of_text.write_tokenizer(None, tmp_path)
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    steps = {"type": "Sequence", "normalizers": [of_text.STEPS[1]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree | {"normalizer": steps}))
    assert "charsmap that is cut short" in refused(lambda: tokenizers.from_folder(tmp_path))


def test_words_of_sentencepiece_are_not_printed(tmp_path, capfd):
    for case in (485, 826):
        of_text.write_sentencepiece(mutations.generator(0, "sentencepiece", case), tmp_path)
        said = refused(lambda: tokenizers.from_folder(tmp_path))
        assert "not a SentencePiece model" in said
    assert capfd.readouterr().err == ""


def test_a_tokenizer_s_regex_that_backtracks(tmp_path):
    of_text.write_tokenizer(None, tmp_path)
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    step = {"type": "Replace", "pattern": of_text.BACKTRACKS, "content": ""}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree | {"normalizer": step}))
    assert "not a tokenizer.json" in refused(lambda: tokenizers.from_folder(tmp_path))


# -- packed files


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_small_file_that_unpacks_to_much(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(of_data, "BLOCKS", 3)
    file = tmp_path / f"d.jsonl{suffix}"
    file.write_bytes(of_data.bomb.__wrapped__(suffix, b'{"text": "a"}\n'))
    assert "unpacks to more than 100 times its size" in refused(lambda: tables.read_table(file))
    said = refused(lambda: documents.read_documents([file], "train"))
    assert "unpacks to more than 100 times its size" in said
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_a_parquet_file_of_equal_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "FREE", 1 << 20)
    file = tmp_path / "d.parquet"
    texts = pa.DictionaryArray.from_arrays(np.zeros(10**6, np.int32), pa.array(["text " * 40]))
    pq.write_table(pa.table({"text": texts}), file)
    for read in (tables.read_table, lambda file: documents.read_documents([file], "train")):
        assert "rows in" in refused(lambda read=read: read(file))
    # Fewer rows, each of more.
    texts = pa.array(["text " * 999]).take(pa.array(np.zeros(10**4, np.int32)))
    pq.write_table(pa.table({"text": texts}), file)
    for read in (tables.read_table, lambda file: documents.read_documents([file], "train")):
        assert "unpacks to more than" in refused(lambda read=read: read(file))


def test_ordinary_packed_files_of_any_size_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "FREE", 1 << 10)
    rng = np.random.default_rng(0)
    rows = [{"text": f"{x} apples and {y} pears"} for x, y in rng.integers(0, 9999, (5000, 2))]
    file = tmp_path / "d.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert list(tables.read_table(file)) == rows


def test_an_arrow_file_whose_offsets_are_damaged(tmp_path):
    file, table = tmp_path / "d.arrow", pa.table({"text": ["one", "two", "three"]})
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    data = bytearray(file.read_bytes())
    at = data.index(np.array([0, 3, 6, 11], np.int32).tobytes())
    data[at + 4 : at + 8] = b"\xff\xff\xff\x7f"
    file.write_bytes(data)
    assert "not a readable Arrow file" in refused(lambda: tables.read_table(file))


@pytest.mark.parametrize("part", [3, 1 << 22])
def test_lines_are_those_of_python(tmp_path, monkeypatch, part):
    monkeypatch.setattr(line_index, "PART", part)
    for text in (
        b"",
        b"a",
        b"\n",
        b"a\n\n b \r\n\t\n\nc",
        b"\xef\xbb\xbfa\nb",
        b"\xef\xbb\xbf\n \na\n",
    ):
        numbers, starts, ends = line_index.of_text(text, tmp_path)
        plain = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        expected = [(i, line) for i, line in enumerate(plain, 1) if line.strip()]
        found = [text[a:b] for a, b in zip(starts, ends, strict=True)]
        assert list(zip(numbers.tolist(), found, strict=True)) == expected


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "a/../../b.arrow", "", 7])
def test_a_saved_dataset_names_no_file_elsewhere(tmp_path, name):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    assert "state.json" in refused(lambda: table_splits.files_by_split(tmp_path))


# -- weights


@pytest.mark.parametrize("offset", ["one further", "where another lies"])
def test_gguf_tensors_out_of_place(tmp_path, offset):
    path = tiny_gguf.write(tmp_path / "m.gguf")
    infos = gguf_header.read(path)["GGUF.tensors"]
    first = min(info.offset for info in infos.values())
    data, name = bytearray((tmp_path / "m.gguf").read_bytes()), b"blk.0.ffn_up.weight"
    # After the name: number of dimensions, two sizes, format, offset.
    at = data.index(name) + len(name) + 4 + 16 + 4
    other = infos["blk.0.ffn_gate.weight"].offset - first
    here = infos[name.decode()].offset - first
    number = here + 1 if offset == "one further" else other
    data[at : at + 8] = number.to_bytes(8, "little")
    (tmp_path / "m.gguf").write_bytes(data)
    words = {"one further": "is not aligned", "where another lies": "lies"}[offset]
    assert words in refused(lambda: gguf_header.read(path))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    folder = shutil.copytree(CASES / "mistral", tmp_path / "m")
    shard = next(iter(sorted(folder.glob("*.safetensors"))))
    tensors = load_file(shard)
    name = sorted(tensors)[-1]
    tensors[name].flat[1] = value
    save_file(tensors, shard)
    assert "holds NaN or infinity" in refused(lambda: load(folder))

    weights = tiny_gguf.tensors()
    weights["blk.1.ffn_down.weight"][3, 4] = value
    file = gguf_file.Tensors(tiny_gguf.write(tmp_path / "m.gguf", weights))
    cfg = gguf_config.model_config(file)
    said = refused(lambda: gguf.load(file, cfg, of_models.RULES, "float32"))
    assert "layers/mlp/down holds NaN or infinity" in said


# -- what is written about a machine


def test_results_name_no_place_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("LFL_CACHE", "/home/someone/.cache/lfl_jax")
    sources = [
        "/home/someone/.cache/lfl_jax/m/model.gguf",
        "/home/someone/data",
        "/home/someone2/x",
    ]
    base = {"source": sources[0], "dequantised_from": None, "fingerprint": "f"}
    facts = {"provenance": {"base": base, "warnings": [], "files": sources}}
    results_json.save_results({}, facts, tmp_path)
    text = (tmp_path / "results.json").read_text()
    assert "/home/someone/" not in text and "/home/someone2/x" in text
    assert json.loads(text)["facts"]["provenance"]["base"]["source"] == "$LFL_CACHE/m/model.gguf"
