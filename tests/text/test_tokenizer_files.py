"""Tokenizers of GGUF files and of SentencePiece folders: what is read, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
from fixtures import tiny_gguf
from gguf import GGUFWriter

from lfl_jax.assets import gguf_header
from lfl_jax.errors import UserError
from lfl_jax.text import tokenizers

FIXTURES = Path(__file__).parents[1] / "fixtures"
LLAMA = FIXTURES / "tiny_llama"


class TestGguf:
    def write(self, path, **changes):
        writer = GGUFWriter(str(path), "llama")
        if changes.pop("tokenizer", True):
            tiny_gguf.add_tokenizer(writer, **changes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path

    def test_merges_and_special_tokens(self, tmp_path):
        tokenizer = tokenizers.from_gguf(self.write(tmp_path / "t.gguf"))
        ids = tokenizer.encode("ab a  12<|im_end|>")
        assert tokenizer.pieces(ids) == ["ab", " a", "  ", "1", "2", "<|im_end|>"]
        assert tokenizer.chat_template == "{{ messages }}"

    def test_plain_gpt2_does_not_set_digits_apart(self, tmp_path):
        tokenizer = tokenizers.from_gguf(self.write(tmp_path / "t.gguf", pre="gpt-2"))
        assert tokenizer.pieces(tokenizer.encode("a  12")) == ["a", " ", " ", "12"]

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            (
                {"pre": "kimi-k2"},
                r"(?s)rule 'kimi-k2'; known are gpt-2, smollm, .*config.model.tokenizer",
            ),
            ({"model": "t5"}, "kind 't5'"),
            ({"model": "llama"}, "'tokenizer.ggml.scores' is missing"),
            ({"tokenizer": False}, "'tokenizer.ggml.model' is missing"),
        ],
    )
    def test_refusals(self, tmp_path, changes, match):
        with pytest.raises(UserError, match=match):
            tokenizers.from_gguf(self.write(tmp_path / "t.gguf", **changes))

    def test_every_truncation_is_refused(self, tmp_path):
        path = self.write(tmp_path / "t.gguf")
        # without the alignment of the tensors that are not there
        data = path.read_bytes().rstrip(b"\0")
        for cut in range(0, len(data), 3):
            path.write_bytes(data[:cut])
            with pytest.raises(UserError, match=r"truncated|not a GGUF"):
                gguf_header.read(path)
        path.write_bytes(data)
        assert gguf_header.read(path)["tokenizer.ggml.merges"] == tiny_gguf.MERGES

    def test_a_merge_that_makes_no_token_is_as_if_it_were_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tiny_gguf, "MERGES", ["a 1", *tiny_gguf.MERGES])
        tokenizer = tokenizers.from_gguf(self.write(tmp_path / "t.gguf"))
        assert tokenizer.pieces(tokenizer.encode("a1 ab")) == ["a", "1", " ", "ab"]

    def test_a_merge_of_three_parts_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tiny_gguf, "MERGES", ["a b c"])
        with pytest.raises(UserError, match="vocabulary and merges do not fit"):
            tokenizers.from_gguf(self.write(tmp_path / "t.gguf"))


@pytest.mark.parametrize("content", [None, b"", b"no model at all", b"GGUF"])
def test_sentencepiece_refusals(tmp_path, content):
    if content is not None:
        (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(UserError, match="SentencePiece model") as caught:
        tokenizers.from_sentencepiece(tmp_path / "t.model")
    assert str(tmp_path) in str(caught.value)


class TestFolderOfSentencePiece:
    """A folder with tokenizer.model and no tokenizer.json: the files beside it count as much."""

    @pytest.fixture
    def folder(self, tmp_path):
        shutil.copy(LLAMA / "tokenizer.model", tmp_path)
        return tmp_path

    def read(self, folder, settings, **files):
        for name, tree in (files | {"tokenizer_config": settings}).items():
            (folder / f"{name}.json").write_text(json.dumps(tree))
        return tokenizers.from_folder(folder)

    def test_settings_hold(self, folder):
        settings = {"pad_token": "<unk>", "add_bos_token": False, "chat_template": "{{ messages }}"}
        tokenizer = self.read(folder, settings)
        assert (tokenizer.pad_id, tokenizer.add_bos, tokenizer.chat_template) == (
            0,
            False,
            "{{ messages }}",
        )
        (folder / "chat_template.jinja").write_text("j")
        assert self.read(folder, {"add_bos_token": True}).chat_template == "j"
        assert tokenizers.from_folder(folder).add_bos is True
        assert self.read(folder, {}).add_bos is True

    @pytest.mark.parametrize("listed", ["added_tokens", "added_tokens_decoder"])
    def test_added_tokens_are_found_whole(self, folder, listed):
        """ids as transformers 5.24 gives them for these files, with legacy true and false."""
        settings = {"eos_token": "<|y|>", "additional_special_tokens": ["<|x|>"], "legacy": False}
        if listed == "added_tokens":
            tokenizer = self.read(folder, settings, added_tokens={"<|x|>": 600, "<|y|>": 601})
        else:
            tokens = {
                str(600 + i): {"content": text, "special": True}
                for i, text in enumerate(("<|x|>", "<|y|>"))
            }
            tokenizer = self.read(folder, settings | {"added_tokens_decoder": tokens})
        assert tokenizer.encode("a <|x|> the<|y|>b")[-9:] == [
            264,
            441,
            600,
            274,
            463,
            443,
            601,
            466,
        ]
        assert (tokenizer.eos_id, tokenizer.eos, tokenizer.vocab_size) == (601, "<|y|>", 602)
        assert tokenizer.decode([264, 600, 274, 463, 443, 601]) == " a the"
        assert tokenizer.pieces([600, 441]) == ["<|x|>", " "]
        legacy = self.read(
            folder, json.loads((folder / "tokenizer_config.json").read_text()) | {"legacy": True}
        )
        assert legacy.encode("the<|x|>the") == [274, 463, 443, 600, 274, 463, 443]

    def test_a_token_that_is_not_special_stays_in_the_text(self, folder):
        tokenizer = self.read(folder, {}, added_tokens={"<think>": 600})
        ids = tokenizer.encode("a<think> the<think><think>")
        assert (
            ids.count(600) == 3
            and tokenizer.decode([1, *ids]).replace("  ", " ") == "a<think> the<think><think>"
        )

    def test_white_space_goes_with_a_token_that_takes_it(self, folder):
        tokens = {"600": {"content": "<|x|>", "special": True, "rstrip": True}}
        tokenizer = self.read(folder, {"added_tokens_decoder": tokens, "legacy": False})
        assert tokenizer.encode("a<|x|> \n the") == tokenizer.encode("a<|x|>the")

    def test_a_padding_token_of_the_settings_is_added(self, folder):
        tokenizer = self.read(folder, {"pad_token": "[PAD]"})
        assert (tokenizer.pad_id, tokenizer.vocab_size) == (600, 601)
        assert tokenizer.encode("[PAD]")[-1] == 600

    def test_its_files_are_those_of_the_folder(self, folder):
        tokenizer = self.read(folder, {"pad_token": "<unk>"}, added_tokens={"<|x|>": 600})
        assert set(tokenizer.files()) == {
            "tokenizer.model",
            "tokenizer_config.json",
            "added_tokens.json",
        }

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"eos_token": "<|eot|>"}, "special token '<|eot|>'"),
            ({"eos_token": 3}, "eos_token is 3; expected the text"),
            ({"added_tokens_decoder": {"x": {}}}, "added tokens is malformed"),
            ({"added_tokens_decoder": [1]}, "added tokens is malformed"),
            ({"chat_template": 5}, "chat_template is a int"),
        ],
    )
    def test_refusals(self, folder, settings, match):
        with pytest.raises(UserError, match=re.escape(match)) as caught:
            self.read(folder, settings)
        assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither tokenizer.json nor tokenizer.model"):
        tokenizers.from_folder(tmp_path)
