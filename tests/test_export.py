"""What a run learned, in other tools' formats and back: the command, its figures, and its
refusals."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lfl_jax.configs import math_ift
from safetensors import SafetensorError

import lfl_jax
from lfl_jax import adapters, assets, export, train
from lfl_jax.analysis.merge_error import merge_error
from lfl_jax.config import Config
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
from lfl_jax.errors import UserError, entry
from lfl_jax.io import hf
from lfl_jax.models import llama
from lfl_jax.run_setup import base_model, earlier_run
from lfl_jax.text.tokenizers import from_folder


def short_run(argument, folder):
    c = math_ift.get_config(argument)
    c.train.steps, c.eval.tasks, c.eval.every_tasks, c.log.tensorboard = 2, (), (), False
    train.run(train.Run(Config.from_dict(c), folder))
    return folder


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return short_run("smoke", tmp_path_factory.mktemp("lora") / "run")


@pytest.fixture(scope="module")
def mix(tmp_path_factory):
    return short_run("smoke,lora+dora", tmp_path_factory.mktemp("mix") / "run")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return short_run("smoke,full", tmp_path_factory.mktemp("full") / "run")


TOKENS = jnp.arange(48).reshape(2, 24) % 250


def logits(params, adapter, cfg):
    return np.asarray(llama.logits(params, llama.forward(params, adapter, TOKENS, cfg)[0]))


def command(*options):
    export.main(["export", *options])


def test_a_runs_adapter_as_a_peft_folder_is_the_same_model(lora, tmp_path):
    base, tuned, _ = earlier_run.restore(lora)
    command(f"--run={lora}", "--to=peft", f"--out={tmp_path / 'peft'}", "--dtype=float32")
    params, adapter = lfl_jax.load_adapter(tmp_path / "peft", base.model.params)
    ours = logits(tuned.params, tuned.adapter, base.cfg)
    assert params is base.model.params
    np.testing.assert_allclose(logits(params, adapter, base.cfg), ours, atol=1e-6)
    assert np.abs(ours - logits(base.model.params, None, base.cfg)).max() > 1e-3


def test_a_runs_adapter_as_one_file_is_the_same_to_the_bit(mix, tmp_path):
    (base, tuned, _), file = earlier_run.restore(mix), tmp_path / "a.safetensors"
    command(f"--run={mix}", "--to=adapter", f"--out={file}")
    _, adapter = lfl_jax.load_adapter(file, base.model.params)
    jax.tree.map(np.testing.assert_array_equal, adapter, tuned.adapter)
    _, from_run = lfl_jax.load_adapter(mix, base.model.params)
    jax.tree.map(np.testing.assert_array_equal, from_run, tuned.adapter)


def test_a_merged_model_is_within_rounding_of_the_unmerged(mix, tmp_path, capsys):
    command(f"--run={mix}", "--to=hf", f"--out={tmp_path / 'hf'}", "--dtype=float32")
    said = capsys.readouterr().out
    assert (
        "logits against the unmerged model over 128 tokens: max" in said and "warning" not in said
    )
    assert "plain bytes have none" in said
    base, tuned, _ = earlier_run.restore(mix)
    cfg = hf.read_config(tmp_path / "hf")
    merged = hf.load(tmp_path / "hf", cfg, make_rules(), "float32")
    np.testing.assert_allclose(
        logits(merged, None, cfg), logits(tuned.params, tuned.adapter, base.cfg), atol=1e-4
    )


def test_a_full_finetune_is_written_as_it_is(full, tmp_path):
    command(f"--run={full}", "--to=hf", f"--out={tmp_path / 'hf'}", "--dtype=float32")
    (base, tuned, _), cfg = earlier_run.restore(full), hf.read_config(tmp_path / "hf")
    again = hf.load(tmp_path / "hf", cfg, make_rules(), "float32")
    jax.tree.map(np.testing.assert_array_equal, again, tuned.params)
    assert any(
        (x != y).any()
        for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(base.model.params), strict=True)
    )


def test_what_peft_cannot_hold_is_written_as_lora_with_its_error(mix, tmp_path, capsys):
    with pytest.raises(UserError, match="peft cannot represent a Mix of DoRA and LoRA"):
        command(f"--run={mix}", "--to=peft", f"--out={tmp_path / 'no'}")
    assert not (tmp_path / "no" / "adapter_config.json").exists()
    command(f"--run={mix}", "--to=peft", f"--out={tmp_path / 'yes'}", "--rank=8")
    assert (
        "LoRA of rank 8 in place of the adapter: relative error of dW 0." in capsys.readouterr().out
    )
    assert json.loads((tmp_path / "yes" / "adapter_config.json").read_text())["r"] == 8


def test_a_wrong_merge_is_more_than_rounding(lora):
    base, tuned, _ = earlier_run.restore(lora)
    merged = adapters.merge(tuned.adapter, tuned.params, jnp.bfloat16)
    fine = merge_error(tuned.params, tuned.adapter, merged, TOKENS, base.cfg, jax.random.key(0))
    wrong = merge_error(
        tuned.params, tuned.adapter, adapters.merge(adapters.negate(tuned.adapter), tuned.params), TOKENS, base.cfg,
        jax.random.key(0),
    )  # fmt: skip
    assert fine.within and 0 < fine.mean <= fine.largest
    assert not wrong.within


def test_merging_casts_once(small, small_params):
    """From float32 to float16 directly: by way of bfloat16, most of the digits would be gone."""
    from helpers import adapter_for

    adapter = adapter_for(small, small_params)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small_params)
    w = adapters.merge(adapter, half, jnp.float16)["layers"]["attn"]["q"]
    exact = (
        half["layers"]["attn"]["q"].astype(jnp.float32)
        + adapters.deltas(adapter, half)["layers"]["attn"]["q"]
    )
    np.testing.assert_array_equal(w, exact.astype(jnp.float16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --run=DIR, or --model=PATH"),
        (["--run={lora}", "--model=x"], "give either --run=DIR, or --model=PATH"),
        (["--run={tmp}/nowhere"], "not the directory of a run"),
        (["--run={lora}", "--step=7"], "no checkpoint of step 7"),
        (["--run={lora}", "--target=original"], "needs --original=DIR"),
        (["--model={tmp}/nowhere"], "no such model"),
    ],
)
def test_a_mistake_is_one_clear_line(options, message, lora, tmp_path):
    given = [option.format(lora=lora, tmp=tmp_path) for option in options]
    with pytest.raises(UserError, match=message):
        command(*given, "--to=hf", f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(lora, tmp_path):
    with pytest.raises(UserError, match="exists; name a new place"):
        command(f"--run={lora}", "--to=hf", f"--out={tmp_path}")


def test_a_full_disk_is_one_line_and_leaves_nothing(lora, tmp_path, monkeypatch):
    def fill(tensors, path, metadata):
        Path(path).write_bytes(b"a part")
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr("safetensors.numpy.save_file", fill)
    for to, out in (("peft", "peft"), ("hf", "hf"), ("adapter", "mine.safetensors")):
        with pytest.raises(
            UserError, match=f"cannot write {tmp_path / out}: No space left on device"
        ):
            command(f"--run={lora}", f"--to={to}", f"--out={tmp_path / out}")
    assert not list(tmp_path.iterdir())


def test_a_full_finetune_has_no_adapter_to_export(full, tmp_path):
    with pytest.raises(UserError, match="no adapter to export; --to=hf"):
        command(f"--run={full}", "--to=peft", f"--out={tmp_path / 'out'}")


def test_a_published_adapter_of_another_rank_than_its_name_is_refused(lora, tmp_path, monkeypatch):
    (base, tuned, _), name = earlier_run.restore(lora), "lfl:metamath-lora-rank-64-alpha-128"
    lfl_jax.save_adapter(tmp_path / "peft", tuned.adapter, base.model.params)
    monkeypatch.setattr(assets, "path", lambda asked: {name: tmp_path / "peft"}[asked])
    with pytest.raises(UserError, match="its adapter has rank 16, its name says 64: mislabelled"):
        lfl_jax.load_adapter(name, base.model.params)
    right = dataclasses.replace(assets.item(name), rank=16)
    monkeypatch.setattr(assets, "item", lambda asked: right)
    assert lfl_jax.load_adapter(name, base.model.params)[1]


def test_what_is_no_adapter_is_refused(lora, tmp_path):
    with pytest.raises(
        UserError, match="no adapter here; expected a PEFT folder, a run directory, an adapter file"
    ):
        lfl_jax.load_adapter(tmp_path, earlier_run.restore(lora)[0].model.params)


def test_another_base_is_refused(lora, small_params):
    with pytest.raises(UserError, match="belongs to base"):
        lfl_jax.load_adapter(lora, small_params)


@pytest.mark.parametrize(
    ("words", "variables"), [(["--distributed"], {}), ([], {"WORLD_SIZE": "2", "RANK": "0"})]
)
def test_several_processes_are_refused_in_a_line(tmp_path, monkeypatch, capsys, words, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    words = ["export", f"--run={tmp_path}", "--to=hf", f"--out={tmp_path / 'out'}", *words]
    with pytest.raises(SystemExit, match="2"):
        entry(export.main, words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: lfl_jax.export runs in one process")


def ended_by(end_token, small, folder):
    """A model in `folder`, saved again with the tokenizer of a run on it: (that tokenizer,
    where)."""
    shutil.copytree(Path(__file__).parent / "fixtures" / "tiny_llama", folder / "tokenizer")
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    own = from_folder(folder / "tokenizer")
    cfg = dataclasses.replace(small, vocab_size=own.vocab_size)
    params = spec.init(llama.specs(cfg), jax.random.key(0))
    lfl_jax.save(folder / "base", params, cfg, own)
    c = math_ift.get_config("smoke")
    c.model.init, c.model.path, c.data.end_token = "pretrained", str(folder / "base"), end_token
    trained = base_model.tokenizer(Config.from_dict(c))
    lfl_jax.save(folder / "tuned", params, cfg, trained)
    return trained, folder / "tuned"


def test_an_exported_model_stops_at_the_end_token_of_its_training(small, tmp_path):
    trained, folder = ended_by("<unk>", small, tmp_path)
    assert trained.eos_id == 0
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": 0,
    }
    again = lfl_jax.load(folder)[2]
    assert (again.eos, again.eos_id, again.bos_id) == ("<unk>", 0, 1)
    assert lfl_jax.load(tmp_path / "base")[2].eos_id == 2
    unchanged = {"tokenizer.model", "tokenizer.json"}
    assert all(
        (folder / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
        for name in unchanged
    )


@pytest.mark.peers
def test_transformers_reads_the_end_token_as_it_was_trained(small, tmp_path):
    transformers = pytest.importorskip("transformers")
    trained, _ = ended_by("<unk>", small, tmp_path)
    for name, eos_id in {"tuned": trained.eos_id, "base": 2}.items():
        generation = transformers.GenerationConfig.from_pretrained(tmp_path / name)
        model = transformers.AutoConfig.from_pretrained(tmp_path / name)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert generation.eos_token_id == model.eos_token_id == theirs.eos_token_id == eos_id
        assert generation.bos_token_id == theirs.bos_token_id == trained.bos_id
