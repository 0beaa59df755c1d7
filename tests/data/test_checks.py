"""What is doubtful about data is said: special tokens, ends, positions, held-out prompts that are
trained on."""

import dataclasses
import json

import pytest

from lfl_jax.data.checks import doubts
from lfl_jax.data.examples import Example
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.sources import open_source
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError


def doubts_of(source, tokenizer, data, positions=9999):
    tokenized = TokenizedSource(source, tokenizer, data)
    return list(doubts(tokenized, estimate_rows(tokenized, seed=0), positions))


def knowing(tokenizer, *specials):
    """The tokenizer with these as single tokens."""

    def encode(text):
        return [300 + specials.index(text)] if text in specials else tokenizer.encode(text)

    return dataclasses.replace(tokenizer, encode_continuation=encode)


def test_nothing_is_said_of_data_that_are_as_they_should_be(make_source, make_data, tokenizer):
    chatml = dataclasses.replace(knowing(tokenizer, "<|im_start|>", "<|im_end|>"), eos="<|im_end|>")
    data = make_data(template="chatml", seq_len=256)
    assert (
        doubts_of(make_source(5), chatml, data)
        == doubts_of(make_source(5), tokenizer, make_data(seq_len=256))
        == []
    )


def test_special_tokens_that_the_tokenizer_spells_out(make_source, make_data, tokenizer):
    (text,) = doubts_of(make_source(5), tokenizer, make_data(template="chatml", seq_len=256))
    assert (
        "writes <|im_start|> and <|im_end|>, which are no tokens of this tokenizer: it spells them"
        " out" in text
    )


def test_an_end_of_turn_that_is_not_the_eos(make_source, make_data, tokenizer):
    (text,) = doubts_of(
        make_source(5),
        knowing(tokenizer, "<|im_start|>", "<|im_end|>"),
        make_data(template="chatml", seq_len=256),
    )
    assert (
        "'<|im_end|>', but an answer is trained to end with this tokenizer's EOS, '<|eos|>'" in text
    )
    assert text.endswith("set config.data.end_token='<|im_end|>'")


def test_llama2_writes_its_tokens_between_exchanges_only(make_source, make_data, tokenizer):
    data = make_data(template="llama2", seq_len=256)
    assert doubts_of(make_source(5), tokenizer, data) == []
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    (text,) = doubts_of(
        make_source(examples=[Example("c", "d", "x", "x", turns=turns)]), tokenizer, data
    )
    assert "writes <s> and </s>" in text


def test_the_end_that_a_tokenizers_own_template_writes(make_source, make_data, tokenizer):
    pytest.importorskip("jinja2")
    turn = "{{ m['role'] + ': ' + m['content'] + '<|end|>\n' }}"
    begin = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    template = "{% for m in messages %}" + turn + "{% endfor %}" + begin
    own, data = (
        dataclasses.replace(tokenizer, chat_template=template),
        make_data(template="tokenizer", seq_len=256),
    )
    (text,) = doubts_of(make_source(5), own, data)
    assert "ends a turn with '<|end|>'" in text


def test_rows_beyond_the_models_positions(make_source, make_data, tokenizer):
    (text,) = doubts_of(make_source(5), tokenizer, make_data(seq_len=256), positions=200)
    assert "rows of 256 tokens (data.seq_len) are longer than this model's 200 positions" in text
    assert "tokens, fits" in text
    (text,) = doubts_of(
        make_source(5), tokenizer, make_data(seq_len=256, cross_document="attend"), positions=200
    )
    assert "not to be relied on" in text


def write(path, numbers):
    path.write_text(
        "".join(json.dumps({"prompt": f"Say {i}", "response": str(i)}) + "\n" for i in numbers)
    )
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Training rows 0 to 59, dev rows 60 to 64, test rows 57 to 64."""
    spans = {"path": range(60), "dev_path": range(60, 65), "test_path": range(57, 65)}
    return {name: write(tmp_path / f"{name}.jsonl", numbers) for name, numbers in spans.items()}


def test_held_out_files_are_read_whole_and_leave_the_training_file_whole(make_data, files):
    data = make_data(**files)
    sizes = [len(open_source(data, split, 0).examples) for split in ("train", "dev", "test")]
    assert sizes == [60, 5, 8]
    only_test = make_data(path=files["path"], test_path=files["test_path"])
    assert len(open_source(only_test, "train", 0).examples) == 59, (
        "dev is still taken from the training file"
    )


def test_held_out_files_are_recorded_with_their_hash(make_data, files):
    recorded = open_source(make_data(**files), "train", 0).provenance()["held_out"]
    assert [(file["split"], file["path"], len(file["sha256"])) for file in recorded] == [
        ("dev", files["dev_path"], 64),
        ("test", files["test_path"], 64),
    ]


def test_held_out_prompts_that_are_trained_on_are_counted(make_data, files, tokenizer):
    data = make_data(**files)
    (text,) = doubts_of(open_source(data, "train", 0), tokenizer, data)
    assert text == "3 of 8 prompts of test_path.jsonl (data.test_path) are trained on, too"


def test_held_out_documents_are_documents(make_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(
            (json.dumps({"content": f"{name} text"}) + "\n") * 5
        )
    data = make_data(
        source="documents", path=str(tmp_path / "a.jsonl"), test_path=str(tmp_path / "b.jsonl")
    )
    assert {e.response for e in open_source(data, "test", 0).examples} == {"b text"}
    assert len(open_source(data, "train", 0).examples) == 4


def test_one_row_trains_and_says_what_to_do_where_it_should_be_tested_on(make_data, tmp_path):
    data = make_data(path=write(tmp_path / "a.jsonl", [1]))
    assert len(open_source(data, "train", 0).examples) == 1
    with pytest.raises(
        UserError,
        match=r"only 1 in all, of 1 different prompts.*config.data.test_path, or evaluate",
    ):
        open_source(data, "test", 0)
