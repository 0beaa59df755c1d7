"""What a person is shown of the packed data is what is trained on."""

import dataclasses
import io
import json
import re
import sys

import pytest
from data.reference import encode_example, pack_once
from rich.console import Console

from lfl_jax import inspect_data
from lfl_jax.data.examples import Example
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError
from lfl_jax.report import training_data

EXAMPLES = [
    Example("1+1?", "2", "a", "a"),
    Example("2+2?", "It's 4\n[b]", "b", "b"),
    Example("q", "r" * 30, "c", "c"),
]


def shown(show, terminal=False) -> str:
    colours = "truecolor" if terminal else None
    console = Console(file=io.StringIO(), force_terminal=terminal, width=40, color_system=colours)
    show(console)
    return console.file.getvalue()


@pytest.fixture
def batch(tokenizer):
    encoded = [encode_example(example, i, tokenizer) for i, example in enumerate(EXAMPLES)]
    (packed,) = pack_once(encoded, seq_len=64, batch=3, pad_id=tokenizer.pad_id)
    return packed


def test_marks_stand_around_exactly_what_carries_loss(batch, tokenizer):
    text = shown(lambda console: training_data.render_batch(batch, tokenizer, console))
    assert "<|bos|>Question: 1+1?\nAnswer:« 2<|eos|>»\n" in text
    assert "<|bos|>Question: 2+2?\nAnswer:« It's 4\n[b]<|eos|>»\n" in text, (
        "and rich markup in data is plain text"
    )
    assert "« " + "r" * 30 + "<|eos|>»\n" in text, (
        "and nothing is wrapped at the width of a terminal"
    )
    assert "row 0: 59 of 64 slots filled" in text
    assert "segment 2: example 1, 35 tokens, 12 carry loss" in text
    assert "row 2: 0 of 64 slots filled" in text
    assert "\x1b" not in text


def test_control_characters_in_data_are_shown_and_not_obeyed(tokenizer):
    example = Example("q", "\x1b]0;title\x1b\\ \x1b[8mhidden", "a", "a")
    encoded = encode_example(example, 0, tokenizer)
    (packed,) = pack_once([encoded], seq_len=64, batch=1, pad_id=tokenizer.pad_id)
    text = shown(lambda console: training_data.render_batch(packed, tokenizer, console))
    assert "\x1b" not in text and r"\x1b]0;title\x1b" in text and r"\x1b[8mhidden" in text


def test_a_terminal_gets_colours_and_no_marks(batch, tokenizer):
    text = shown(
        lambda console: training_data.render_batch(batch, tokenizer, console), terminal=True
    )
    assert "«" not in text
    spans = re.findall(r"\x1b\[1;32m(.*?)\x1b\[0m", text, re.DOTALL)
    assert spans == [" 2<|eos|>", " " + "r" * 30 + "<|eos|>"], (
        "bold green, the first segment of each row"
    )
    assert re.search(r"\x1b\[1;4;32m It's 4", text), "the second one underlined"


def summary(source, tokenizer, data) -> dict[str, str]:
    estimate = estimate_rows(TokenizedSource(source, tokenizer, data), seed=0)
    text = shown(lambda console: training_data.render_summary(source, estimate, data, console))
    return {line[:10].strip(): line[10:] for line in text.splitlines()}


def test_the_summary_tells_source_and_packing(tokenizer, make_source, make_data):
    found = summary(make_source(examples=EXAMPLES), tokenizer, make_data())  # 25, 34 and 51 tokens
    assert found["source"] == "test, split train: made for tests"
    assert found["examples"] == "3; 0 skipped, 0 cut"
    assert found["rows"] == "2 of 64 tokens an epoch"
    assert found["packing"] == "85.9% of the slots hold a token"
    assert found["loss mask"] == "42.7% of the tokens, 23.5 a row"
    assert found["longest"] == "51 tokens (example c)"


@pytest.fixture
def run(monkeypatch):
    """Runs the command with the smoke config and these options."""

    def main(*options):
        argv = ["inspect_data", "--config=configs/math_ift.py:smoke", *options]
        monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks for overrides there
        inspect_data.main(argv)

    return main


@pytest.fixture
def command(run, tmp_path):
    """Runs it on a file of these rows."""

    def main(rows, *options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run(f"--config.data.path={path}", "--config.data.seq_len=64", *options)

    return main


ROWS = [{"prompt": e.prompt, "response": e.response} for e in EXAMPLES]


def test_the_command_shows_rows_and_summary(command, capsys):
    command(ROWS, "--rows=1")
    out = capsys.readouterr().out
    assert re.findall(r"^row \d", out, re.MULTILINE) == ["row 0"]
    assert "Answer:«" in out
    assert "rows.jsonl, split train" in out


def test_no_rows_leave_the_summary(command, capsys):
    command(ROWS, "--rows=0")
    assert capsys.readouterr().out.startswith("source")


def test_generated_data_say_that_they_are_synthetic(run, capsys):
    run("--config.data.seq_len=512", "--config.data.size=8", "--rows=1")
    assert "word_problems, split train: SYNTHETIC" in capsys.readouterr().out


def test_a_mask_of_zeros_is_refused(command):
    with pytest.raises(UserError, match="loss mask is all zero"):
        command([{"prompt": "x" * 90, "response": "r"}], "--config.data.too_long=skip")


def test_a_mask_of_ones_is_refused(command, monkeypatch):
    measure = training_data.estimate_rows

    def unmasked(*args, **options):
        estimate = measure(*args, **options)
        stats = dataclasses.replace(estimate.stats, targets=estimate.stats.tokens)
        return dataclasses.replace(estimate, stats=stats)

    monkeypatch.setattr(training_data, "estimate_rows", unmasked)
    with pytest.raises(UserError, match="loss mask is all one"):
        command(ROWS)


def test_a_negative_number_of_rows_is_refused(command):
    with pytest.raises(UserError, match="--rows=-1 must be 0 or more"):
        command(ROWS, "--rows=-1")


def test_documents_carry_loss_all_over_and_that_is_no_mistake(run, capsys):
    run(
        "--config.data.source=math_text",
        "--config.data.packing=concat",
        "--config.data.size=8",
        "--rows=1",
    )
    out = capsys.readouterr().out
    assert "math_text, split train: SYNTHETIC, STAND-IN FOR OpenWebMath" in out
    assert "Question:" not in out
    assert re.search(r"<\|bos\|>«[A-Z]", out), "the first word already"
    assert "<|eos|><|eos|>" not in out


def test_an_eos_between_examples_that_attend_is_shown_once(run, capsys):
    run(
        "--config.data.size=8",
        "--config.data.seq_len=900",
        "--config.data.cross_document=attend",
        "--rows=1",
    )
    out = capsys.readouterr().out
    assert "<|eos|>»<|bos|>Question" in out
    assert "segment 2" not in out


def test_decontamination_says_which_items_the_source_holds(run, capsys, tmp_path):
    shared = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i} {shared if i % 2 else i}", "response": f"r{i}"} for i in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(f"--config.data.path={path}", "--config.eval.tasks=('target_nll:1',)", "--decontaminate")
    out = capsys.readouterr().out
    assert re.search(r"target_nll +[1-4] of 4 items share 13 words with the source", out)
    assert "one two three four five six seven eight nine ten eleven twelve" in out
    assert "loss mask" not in out
