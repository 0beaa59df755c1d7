"""The doctor as a command: its table, its exit code, and the doubts about a config that it names."""

import json

import pytest

import lfl_jax
from lfl_jax import doctor
from lfl_jax.models.presets import PRESETS
from lfl_jax.proofs import checks, reduced, reduced_config, shape
from lfl_jax.proofs.finding import Finding, at_most, judged, not_applicable

CONFIG = "--config=configs/math_ift.py:smoke"


@pytest.fixture
def few(monkeypatch):
    """Three checks in place of all, which end as they are told."""
    monkeypatch.setattr(
        checks,
        "CHECKS",
        {
            "one": lambda run: at_most(1.0, 2.0, "x"),
            "two": lambda run: not_applicable("there is no adapter"),
            "three": lambda run: judged(False, "3 differ", "none", "embed differs"),
        },
    )
    monkeypatch.setattr(
        checks.meshes,
        "Beside",
        lambda step: type("", (), {"result": list, "close": lambda self: None})(),
    )


def command(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        doctor.main(["doctor", CONFIG, *words])
    return ended.value.code, capsys.readouterr()


def test_the_table_says_what_failed_and_the_exit_code_too(few, capsys):
    code, printed = command(capsys)
    assert code == 1
    assert "1/3 one: proved" in printed.err and "3/3 three: failed" in printed.err
    assert "FAILED three: embed differs" in printed.out and "there is no adapter" in printed.out
    assert "1 proved, 1 failed, 1 not applicable" in printed.out


def test_json_has_every_check_and_nothing_else_on_stdout(few, capsys):
    del checks.CHECKS["three"]
    code, printed = command(capsys, "--json")
    values = json.loads(printed.out)
    assert code == 0 and values["failed"] == []
    assert [row["check"] for row in values["checks"]] == ["one", "two"]
    assert values["checks"][0] | {"seconds": 0} == {
        "check": "one", "seconds": 0, "outcome": "proved", "measured": "1 x", "bound": "2 x", "reason": "",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["smollm2-135m", "llama2-7b", "llama2-70b", "lab-1m", "tiny"])
def test_a_model_is_cut_to_the_same_family(name):
    whole = PRESETS[name]
    small = shape.reduced(whole, whole.vocab_size)
    assert small.n_heads % small.n_kv_heads == 0 and small.d_model <= 64 and small.n_layers == 2
    grouped = [cfg.n_heads > cfg.n_kv_heads for cfg in (whole, small)]
    assert grouped[0] == grouped[1] and small.tied == whole.tied
    assert (small.rope_theta, small.vocab_size) == (whole.rope_theta, whole.vocab_size)


def test_what_is_not_here_is_said_and_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "empty"))
    config = lfl_jax.get_config("math_ift:paper")
    run = reduced.prepare(config, tmp_path)
    assert any("tokens are bytes" in note and "llama2-7b" in note for note in run.notes)
    assert any("weights are random" in note for note in run.notes)
    assert any("word_problems in place of metamath" in note for note in run.notes)
    assert run.config.optim.name == "lionw" and run.config.adapter.kinds == ("lora",)


def test_accumulation_ranks_and_patterns_are_those_of_the_config(tmp_path):
    fields = {
        "train.batch": 8,
        "train.microbatch": 2,
        "adapter.rank": 32,
        "adapter.alpha": 16.0,
        "adapter.rank_pattern": ((r"layers/1/.*", 16), (r"layers/1/attn/q", 4)),
    }
    config = lfl_jax.get_config("math_ift:smoke", **fields)
    run = reduced.prepare(config, tmp_path)
    assert (run.config.train.microbatches, run.config.train.batch) == (2, 4)
    adapter = run.config.adapter
    assert adapter.alpha / adapter.rank == 0.5
    assert adapter.rank_pattern == ((r"layers/1/.*", 8), (r"layers/1/attn/q", 4))


def test_targets_in_layers_that_are_cut_become_their_modules():
    whole = [f"layers/{i}/attn/{name}" for i in range(30) for name in ("q", "v")]
    cut = whole[:4]
    targets = reduced_config._targets(("q", "layers/2[0-9]/attn/v", "layers/0/attn/v"), whole, cut)
    assert targets == ("q", "v", "layers/0/attn/v")


def test_a_finding_that_is_no_number_has_failed():
    assert at_most(float("nan"), 1.0, "x").failed and not at_most(1.0, 1.0, "x").failed
    assert not Finding("not applicable").failed


@pytest.mark.slow
@pytest.mark.parametrize("words", ["smoke", "smoke,full", "smoke,qlora", "smoke,lora+bottleneck"])
def test_nothing_fails_on_a_small_config(words, capsys):
    with pytest.raises(SystemExit) as ended:
        doctor.main(["doctor", f"--config=configs/math_ift.py:{words}", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert (ended.value.code, values["failed"]) == (0, []), values
    assert {row["outcome"] for row in values["checks"]} <= {"proved", "not applicable"}
