"""The tokenizer beside a model: its vocabulary fits the embedding, or it is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from fixtures import tiny_gguf
from hf_folders import CASES, TINY_LLAMA, load
from lfl_jax.configs import math_ift

import lfl_jax
from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.io import hf, pretrained
from lfl_jax.run_setup import base_model
from lfl_jax.text import tokenizers


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CASES / "mistral", tmp_path / "model")


def test_a_tokenizer_of_another_vocabulary_is_refused(folder):
    for file in TINY_LLAMA.glob("tokenizer*"):
        shutil.copy(file, folder)
    with pytest.raises(UserError, match=r"the tokenizer has 600 tokens, the embedding 56 rows"):
        pretrained.open_model(folder).tokenizer()


@pytest.fixture
def with_tokenizer(folder):
    """A folder whose tokenizer has 600 tokens and a padding token that the embedding of 600 rows
    does not."""
    params, cfg = load(folder), hf.read_config(folder)
    wide = {
        "embed": np.resize(params["embed"], (600, cfg.d_model)),
        "head": np.resize(params["head"], (600, cfg.d_model)),
    }
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    hf.save(
        folder,
        params | jax.tree.map(jax.numpy.asarray, wide),
        dataclasses.replace(cfg, vocab_size=600),
    )
    for file in TINY_LLAMA.glob("tokenizer*"):
        shutil.copy(file, folder)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", ["tokenizer.json", "tokenizer.model"])
def test_a_padding_token_without_a_row_is_an_error_only_in_a_text(kind, with_tokenizer):
    (with_tokenizer / ({"tokenizer.json", "tokenizer.model"} - {kind}).pop()).unlink()
    _, cfg, tokenizer = lfl_jax.load(with_tokenizer)
    assert (tokenizer.vocab_size, cfg.vocab_size, tokenizer.pad_id) == (600, 600, tokenizer.eos_id)
    assert tokenizer.encode("the") == tokenizers.from_folder(TINY_LLAMA).encode("the")
    with pytest.raises(UserError, match=r"a text contains '\[PAD\]', token 600, .* it has 600;"):
        tokenizer.encode("the [PAD]")


def test_an_end_of_text_without_a_row_is_refused(with_tokenizer):
    settings = {"bos_token": "<s>", "eos_token": "<|end|>"}
    (with_tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    (with_tokenizer / "added_tokens.json").write_text('{"<|end|>": 600}')
    with pytest.raises(UserError, match="EOS is token 600, for which the embedding has no row"):
        pretrained.open_model(with_tokenizer).tokenizer()


def test_another_tokenizer_may_be_named(with_tokenizer, tmp_path):
    """A folder, a file, a GGUF file; of a model whose own is missing or not known here."""
    for name in ("tokenizer.json", "tokenizer.model"):
        (with_tokenizer / name).unlink()
    with pytest.raises(UserError, match="neither tokenizer.json nor tokenizer.model"):
        lfl_jax.load(with_tokenizer)
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(TINY_LLAMA / "tokenizer.model", only / "x.model")
    gguf_file = tiny_gguf.write(tmp_path / "tiny.gguf")
    for named, size in (
        (TINY_LLAMA, 600),
        (TINY_LLAMA / "tokenizer.json", 600),
        (only / "x.model", 600),
        (gguf_file, 21),
    ):
        tokenizer = lfl_jax.load(with_tokenizer, tokenizer=named)[2]
        assert (
            tokenizer.vocab_size == size
            and tokenizer.decode(tokenizer.encode_continuation("ab a")) == "ab a"
        )
    with pytest.raises(
        UserError, match="no such file or folder; expected a folder with tokenizer.json"
    ):
        lfl_jax.load(with_tokenizer, tokenizer=only / "absent.json")
    with pytest.raises(UserError, match="is no tokenizer; expected a folder"):
        lfl_jax.load(with_tokenizer, tokenizer=with_tokenizer / "model.safetensors")
    with pytest.raises(UserError, match="600 tokens, the embedding 56 rows"):
        lfl_jax.load(CASES / "mistral", tokenizer=TINY_LLAMA)


def test_a_run_takes_the_tokenizer_its_config_names(with_tokenizer):
    config = math_ift.get_config("smoke")
    config.model.init, config.model.path, config.model.tokenizer = (
        "pretrained",
        str(with_tokenizer),
        str(TINY_LLAMA),
    )
    found = base_model.tokenizer(Config.from_dict(config))
    assert found.vocab_size == 600 and "[PAD]" not in found.pieces([599, 0])
    config.model.tokenizer = ""
    assert base_model.tokenizer(Config.from_dict(config)).encode("x") == found.encode("x")
