"""Tokenizers against expected ids made without them (make_fixtures.py), and their refusals."""

import json
from pathlib import Path

import pytest
from gguf import GGUFWriter
from text.torture import TEXTS

from lfl_jax import assets
from lfl_jax.errors import UserError
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizer import within

FIXTURES = Path(__file__).parents[1] / "fixtures"
LLAMA = FIXTURES / "tiny_llama"


@pytest.fixture(scope="module")
def smollm2():
    if not assets.is_cached("smollm2-135m"):
        pytest.skip("smollm2-135m is not fetched: run `python -m lfl_jax.fetch smollm2-135m`")
    return tokenizers.from_gguf(assets.path("smollm2-135m", "model.gguf"))


@pytest.fixture(scope="module", params=["sentencepiece", "json", "gguf"])
def llama(request, tmp_path_factory):
    """One vocabulary of Llama-2's kind by three ways."""
    if request.param == "sentencepiece":
        return tokenizers.from_sentencepiece(LLAMA / "tokenizer.model")
    if request.param == "json":
        return tokenizers.from_json(LLAMA)
    return tokenizers.from_gguf(llama_gguf(tmp_path_factory.mktemp("gguf") / "llama.gguf"))


def llama_gguf(path):
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(LLAMA / "tokenizer.model"))
    ids = range(model.vocab_size())
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in ids
    ]
    writer = GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([model.id_to_piece(i) for i in ids])
    writer.add_token_scores([model.get_score(i) for i in ids])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def expected(name):
    return json.loads((FIXTURES / name).read_text())["ids"]


class TestSmolLM2:
    @pytest.mark.parametrize("i", range(len(TEXTS)), ids=lambda i: ascii(TEXTS[i][:20]))
    def test_ids(self, smollm2, i):
        assert smollm2.encode(TEXTS[i]) == expected("smollm2_ids.json")[i]

    def test_digits_stand_apart(self, smollm2):
        assert smollm2.pieces(smollm2.encode("a   55+6")) == ["a", "   ", "5", "5", "+", "6"]

    def test_ids_published_by_others(self, smollm2):
        """From a dump of the published tokenizer (github bulebrainbrand/smollm2-135M,
        reference.json)."""
        assert smollm2.encode("1234567890 + 3.14159") == [
            *range(33, 42),
            32,
            1232,
            216,
            35,
            30,
            33,
            36,
            33,
            37,
            41,
        ]
        assert smollm2.encode("The quick brown fox") == [504, 2365, 6354, 16438]

    def test_special_tokens(self, smollm2):
        assert (smollm2.vocab_size, smollm2.bos_id, smollm2.eos_id, smollm2.pad_id) == (
            49152,
            1,
            2,
            2,
        )
        assert (smollm2.add_bos, smollm2.bos, smollm2.eos) == (False, "<|im_start|>", "<|im_end|>")
        assert smollm2.encode("<|im_start|>user")[0] == 1
        assert smollm2.decode([1, *smollm2.encode("hi"), 2]) == "hi"
        assert smollm2.chat_template.startswith("{% for message in messages %}")

    @pytest.mark.parametrize(
        "text", [t for t in TEXTS if "<|" not in t and "<" not in t], ids=ascii
    )
    def test_round_trip(self, smollm2, text):
        assert smollm2.decode(smollm2.encode(text)) == text

    def test_pieces_join_to_the_text(self, smollm2):
        text = "Caf\u00e9  42\n<|im_end|>"
        assert "".join(smollm2.pieces(smollm2.encode(text))) == text
        assert smollm2.pieces(smollm2.encode("\U0001f600")) == ["\\xf0\\x9f", "\\x98", "\\x80"]


class TestLlama:
    @pytest.mark.parametrize("i", range(len(TEXTS)), ids=lambda i: ascii(TEXTS[i][:20]))
    def test_ids(self, llama, i):
        assert llama.encode(TEXTS[i]) == expected("tiny_llama/ids.json")[i]

    def test_special_tokens(self, llama):
        assert (llama.bos_id, llama.eos_id, llama.pad_id, llama.add_bos) == (1, 2, 2, True)
        assert (llama.bos, llama.eos, llama.vocab_size) == ("<s>", "</s>", 600)
        assert llama.encode("</s>") == [2]
        assert llama.decode(llama.encode("the text")) == " the text"
        assert llama.decode([1, *llama.encode("the text"), 2]) == "the text"

    def test_continuation_has_no_leading_space(self, llama):
        assert llama.pieces(llama.encode("the"))[0].startswith(" ")
        assert "".join(llama.pieces(llama.encode_continuation("the"))) == "the"
        assert "".join(llama.pieces(llama.encode_continuation(" the"))) == " the"

    def test_text_after_a_special_token_has_one_again(self, llama):
        assert "".join(llama.pieces(llama.encode("the</s>the"))) == " the</s> the"
        assert "".join(llama.pieces(llama.encode_continuation("the</s>the"))) == "the</s> the"
        assert "".join(llama.pieces(llama.encode_continuation("</s>the"))) == "</s> the"

    @pytest.mark.parametrize(
        "text", [t for t in TEXTS if "<" not in t and "\u2581" not in t], ids=ascii
    )
    def test_round_trip(self, llama, text):
        assert llama.decode([llama.bos_id, *llama.encode(text)]) == text

    @pytest.mark.parametrize(
        "text", [t for t in TEXTS if "<" not in t and "\u2581" not in t], ids=ascii
    )
    def test_round_trip_of_a_continuation(self, llama, text):
        """What a model writes after "Answer:" keeps its first space."""
        ids = llama.encode_continuation(text)
        assert llama.decode(ids) == text
        assert llama.decode_continuation([llama.bos_id, *llama.encode("Answer:")], ids) == text

    def test_a_text_that_nothing_precedes_has_no_first_space(self, llama):
        assert llama.decode_continuation([llama.bos_id], llama.encode("the")) == "the"
        assert llama.decode_continuation([], llama.encode("the")) == " the"

    def test_pieces_join_to_the_text(self, llama):
        assert "".join(llama.pieces(llama.encode("two  lines\n</s>"))) == " two  lines\n</s>"


class TestBytes:
    def test_ids(self):
        byte = tokenizers.byte_tokenizer()
        assert byte.encode("a\u00e9<|eos|>") == [97, 0xC3, 0xA9, 258]
        assert byte.decode([257, 97, 0xC3, 0xA9, 258]) == "a\u00e9"
        assert byte.pieces([97, 0xC3, 256]) == ["a", "\\xc3", "<|pad|>"]
        assert max(byte.bos_id, byte.eos_id, byte.pad_id) < byte.vocab_size


def test_batches_are_single_texts(smollm2, llama):
    for tokenizer in (smollm2, llama, tokenizers.byte_tokenizer()):
        assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


class TestJson:
    """What stands beside tokenizer.json decides."""

    @pytest.fixture
    def folder(self, tmp_path):
        tree = json.loads((LLAMA / "tokenizer.json").read_text())
        self.write(tmp_path, "tokenizer.json", tree)
        self.write(
            tmp_path,
            "tokenizer_config.json",
            {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
        )
        return tmp_path

    def write(self, folder, name, tree):
        (folder / name).write_text(tree if isinstance(tree, str) else json.dumps(tree))

    @pytest.mark.parametrize("flag", [True, False, None])
    @pytest.mark.parametrize("processor", [True, False])
    def test_the_post_processor_decides_about_bos_whatever_the_flag_says(
        self, folder, processor, flag
    ):
        """As transformers 5 does: test_transformers_gives_the_same_ids below compares the ids."""
        if not processor:
            tree = json.loads((folder / "tokenizer.json").read_text())
            self.write(folder, "tokenizer.json", tree | {"post_processor": None})
        settings = {"bos_token": "<s>", "eos_token": "</s>"} | (
            {} if flag is None else {"add_bos_token": flag}
        )
        self.write(folder, "tokenizer_config.json", settings)
        assert tokenizers.from_json(folder / "tokenizer.json").add_bos is processor

    def test_special_tokens_map_is_read(self, folder):
        (folder / "tokenizer_config.json").unlink()
        self.write(folder, "special_tokens_map.json", {"eos_token": "</s>", "pad_token": "<unk>"})
        tokenizer = tokenizers.from_json(folder)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
        # nobody names BOS, and the post-processor puts it before a text
        assert tokenizer.add_bos is True

    def test_the_map_decides_unless_the_settings_list_the_added_tokens(self, folder):
        settings = {"eos_token": "</s>", "pad_token": "</s>"}
        self.write(folder, "tokenizer_config.json", settings)
        self.write(folder, "special_tokens_map.json", {"pad_token": "<unk>"})
        assert tokenizers.from_json(folder).pad_id == 0
        self.write(folder, "tokenizer_config.json", settings | {"added_tokens_decoder": {}})
        assert tokenizers.from_json(folder).pad_id == 2

    def test_tokens_added_beside_the_file_are_found_in_texts(self, folder):
        settings = {"bos_token": "<s>", "eos_token": "<|end|>", "pad_token": "[PAD]"}
        self.write(folder, "tokenizer_config.json", settings)
        self.write(folder, "added_tokens.json", {"<|end|>": 600})
        tokenizer = tokenizers.from_json(folder)
        assert tokenizer.encode("x<|end|>") == [*tokenizer.encode("x"), 600]
        assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (600, 601, 602)
        assert tokenizer.decode(tokenizer.encode_continuation(" x<|end|>")) == " x"
        self.write(folder, "added_tokens.json", {"<|end|>": 700})
        with pytest.raises(UserError, match=r"'<\|end\|>' the id 700, which here is 600"):
            tokenizers.from_json(folder)

    def test_chat_template(self, folder):
        assert tokenizers.from_json(folder).chat_template is None
        named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
        self.write(folder, "tokenizer_config.json", {"eos_token": "</s>", "chat_template": named})
        assert tokenizers.from_json(folder).chat_template == "d"
        self.write(folder, "chat_template.jinja", "j")
        assert tokenizers.from_json(folder).chat_template == "j"

    def test_truncation_and_padding_are_off(self, folder):
        tree = json.loads((folder / "tokenizer.json").read_text())
        tree["truncation"] = {
            "direction": "Right",
            "max_length": 2,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        self.write(folder, "tokenizer.json", tree)
        assert len(tokenizers.from_json(folder).encode("a long text")) > 2

    def test_metaspace_prefix_is_left_out_of_continuations(self, folder):
        tree = json.loads((folder / "tokenizer.json").read_text()) | {"normalizer": None}
        metaspace = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "always",
            "split": False,
        }
        self.write(folder, "tokenizer.json", tree | {"pre_tokenizer": metaspace})
        tokenizer = tokenizers.from_json(folder)
        assert tokenizer.pieces(tokenizer.encode("x")) == [" x"]
        assert tokenizer.pieces(tokenizer.encode_continuation("x")) == ["x"]

    @pytest.mark.parametrize(
        ("name", "content", "match"),
        [
            ("tokenizer.json", "{", "malformed JSON"),
            ("tokenizer.json", "[]", "expected a JSON object"),
            ("tokenizer.json", "{}", "not a tokenizer.json"),
            ("tokenizer_config.json", "{}", "no eos_token"),
            (
                "tokenizer_config.json",
                '{"eos_token": "<|eot|>"}',
                "'<|eot|>' of the files beside it is not in",
            ),
        ],
    )
    def test_refusals(self, folder, name, content, match):
        self.write(folder, name, content)
        with pytest.raises(UserError) as caught:
            tokenizers.from_json(folder)
        assert match in str(caught.value)
        assert str(folder) in str(caught.value)

    def test_no_file(self, tmp_path):
        with pytest.raises(UserError, match="no such file"):
            tokenizers.from_json(tmp_path)


class TestWithin:
    """A tokenizer with one more token than the embedding has rows."""

    def test_it_is_the_same_until_a_text_needs_the_token(self):
        byte = tokenizers.byte_tokenizer()
        limited = within(byte, 257, "model")
        assert limited.encode("abc") == byte.encode("abc") and limited.vocab_size == 257
        assert limited.encode_batch(["a", "b"]) == [[97], [98]] and limited.encode_continuation(
            "a"
        ) == [97]
        for encode in (
            limited.encode,
            limited.encode_continuation,
            lambda text: limited.encode_batch([text]),
        ):
            with pytest.raises(
                UserError, match=r"model: a text contains '<\|bos\|>', token 257, .* it has 257"
            ):
                encode("a<|bos|>")

    def test_padding_without_a_row_becomes_eos(self):
        assert within(tokenizers.byte_tokenizer(), 200, "model").pad_id == 258


def test_a_character_cut_by_the_end_of_a_prompt_is_whole_in_the_text():
    byte = tokenizers.byte_tokenizer()
    ids = byte.encode("x\N{THINKING FACE} y")
    for cut in range(len(ids)):
        text = byte.decode_continuation(ids[:cut], ids[cut:])
        whole = byte.decode(ids[:cut]).rstrip("\N{REPLACEMENT CHARACTER}")
        assert whole + text == "x\N{THINKING FACE} y"


def test_files_of_a_tokenizer_are_the_tokenizer(llama, tmp_path):
    assert llama.files()
    for name, content in llama.files().items():
        (tmp_path / name).write_bytes(content)
    again = tokenizers.from_folder(tmp_path)
    assert [again.encode(text) for text in TEXTS] == [llama.encode(text) for text in TEXTS]
    assert (again.bos_id, again.eos_id, again.add_bos) == (
        llama.bos_id,
        llama.eos_id,
        llama.add_bos,
    )


def test_files_of_a_gguf_tokenizer_are_the_tokenizer(smollm2, tmp_path):
    for name, content in smollm2.files().items():
        (tmp_path / name).write_bytes(content)
    again = tokenizers.from_folder(tmp_path)
    assert [again.encode(text) for text in TEXTS] == [smollm2.encode(text) for text in TEXTS]
    kept = ("bos_id", "eos_id", "pad_id", "add_bos", "chat_template", "vocab_size")
    assert all(getattr(again, name) == getattr(smollm2, name) for name in kept)
