"""Tokenizers of people's files, by the ids that transformers 5.24 gives (make_tokenizers.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from parity import tokenizer_cases as cases

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.text import tokenizers

EXPECTED = json.loads(Path(__file__).with_name("tokenizers.json").read_text())


@pytest.mark.parametrize("name", cases.FOLDERS)
def test_folders(name, tmp_path):
    found, theirs = (
        tokenizers.from_folder(cases.write_folder(name, tmp_path)),
        EXPECTED["folders"][name],
    )
    assert [prompt_ids(text, found) for text in cases.TEXTS] == theirs["ids"]
    assert (found.eos_id, found.vocab_size) == (theirs["eos"], theirs["size"])
    assert found.pad_id == (theirs["eos"] if theirs["pad"] is None else theirs["pad"])


@pytest.mark.parametrize("name", cases.FOLDERS)
def test_what_follows_a_prompt_comes_back_whole(name, tmp_path):
    found = tokenizers.from_folder(cases.write_folder(name, tmp_path))
    for prompt in ("Answer:", "def f(x):\n", "a<|x|>"):
        for text in cases.CONTINUATIONS:
            ids = found.encode_continuation(text)
            assert found.decode_continuation(prompt_ids(prompt, found), ids) == text


@pytest.mark.parametrize("rule", ["llama-bpe", "qwen2"])
def test_gguf_rules(rule, tmp_path):
    found = tokenizers.from_gguf(
        cases.write_gguf(rule, EXPECTED["vocabulary"], tmp_path / "t.gguf")
    )
    assert [found.encode(text) for text in cases.GGUF_TEXTS] == EXPECTED["gguf"][rule]
    assert found.add_bos is (rule == "llama-bpe")
    for name, content in found.files().items():
        (tmp_path / name).write_bytes(content)
    again = tokenizers.from_folder(tmp_path)
    assert [prompt_ids(text, again) for text in cases.GGUF_TEXTS] == [
        prompt_ids(t, found) for t in cases.GGUF_TEXTS
    ]


def test_every_rule_splits_in_its_own_way(tmp_path):
    ids = set()
    for rule in cases.GGUF_RULES:
        found = tokenizers.from_gguf(
            cases.write_gguf(rule, EXPECTED["vocabulary"], tmp_path / "t.gguf")
        )
        ids.add(str([found.encode(text) for text in cases.GGUF_TEXTS]))
    assert len(ids) == len(cases.GGUF_RULES)


@pytest.mark.peers
def test_transformers_still_gives_these_ids():
    python = os.environ.get("PEER_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import transformers, torch"], capture_output=True).returncode:
        pytest.skip(
            "transformers is not installed (extra peers); PEER_PYTHON may name a Python that has it"
        )
    root = Path(__file__).parents[2]
    command = [python, "-m", "tests.parity.make_tokenizers", "--check"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
