"""Checkpoints as transformers saves them: logits, gradients of every parameter, and greedy decoding
(make_hf.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax import adapters, losses, sample
from lfl_jax.core import tree
from lfl_jax.core.sharding import make_rules
from lfl_jax.io import hf, hf_config
from lfl_jax.model import Model
from lfl_jax.models import llama

FOLDER = Path(__file__).parent / "hf"
CASES = sorted(p.stem for p in FOLDER.glob("*.npz"))
PROMPTS = ([5, 9, 11], [7, 3, 40, 41, 42, 43, 8])


@pytest.fixture(params=CASES)
def case(request):
    folder, rules = FOLDER / request.param, make_rules(devices=jax.devices()[:1])
    cfg = hf.read_config(folder)
    return (
        cfg,
        hf.load(folder, cfg, rules, "float32"),
        dict(np.load(FOLDER / f"{request.param}.npz")),
    )


def test_every_case_is_there():
    first = ["biases", "gqa_tied", "linear", "llama3_fp16", "mha_bf16", "mistral"]
    assert [*first, "qwen2", "qwen3", "window", "yarn"] == CASES


def test_logits_are_those_of_transformers(case):
    cfg, params, expected = case
    hidden, _ = llama.forward(params, None, jnp.asarray(expected["tokens"]), cfg)
    found = np.asarray(llama.logits(params, hidden))
    assert np.abs(found - expected["logits"]).max() <= 1e-4


def test_gradients_of_every_parameter_are_those_of_transformers(case):
    cfg, params, expected = case
    tokens = expected["tokens"]
    ones = np.ones_like(tokens[:, 1:])
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": ones.astype(np.float32)}
    batch |= {"segment_ids": ones, "positions": np.cumsum(ones, axis=1) - 1}
    batch = {
        name: jnp.asarray(x, jnp.float32 if name == "weights" else jnp.int32)
        for name, x in batch.items()
    }

    def loss(params):
        return losses.nll_sum(params, {}, batch, cfg) / ones.size

    value, grads = jax.value_and_grad(loss)(params)
    assert abs(float(value) - expected["loss"]) <= 1e-5 * expected["loss"]
    seen = set()
    for path, grad in tree.items(grads):
        for i, name in enumerate(hf.LAYOUT.tensor_names(path, cfg.n_layers)):
            ours, theirs = (
                np.asarray(grad[i].T if path.startswith("layers/") else grad),
                expected[f"grad/{name}"],
            )
            assert np.linalg.norm(ours - theirs) <= 1e-3 * np.linalg.norm(theirs), name
            np.testing.assert_allclose(
                ours, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max(), err_msg=name
            )
            seen.add(f"grad/{name}")
    assert seen == {name for name in expected if name.startswith("grad/")}


def test_greedy_continuations_of_left_padded_prompts_are_those_of_transformers(case):
    cfg, params, expected = case
    model = sample.unstacked(Model(params=params, adapter={}), cfg.n_layers)
    found = sample.generate(model, PROMPTS, cfg, max_new_tokens=12, eos_id=-1)
    assert [list(map(int, row)) for row in found] == expected["greedy"].tolist()


def test_what_is_saved_loads_to_the_same_bits(case, tmp_path):
    cfg, params, _ = case
    names = hf.save(tmp_path, params, cfg, dtype="float32", shard_bytes=20_000)
    assert len(names) > 1 and (tmp_path / "model.safetensors.index.json").is_file()
    assert hf.read_config(tmp_path) == cfg
    again = hf.load(tmp_path, cfg, make_rules(devices=jax.devices()[:1]), "float32")
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.peers
def test_what_is_saved_is_the_same_model_in_transformers(case, tmp_path):
    """Runs make_hf.py in the Python named by PEER_PYTHON, or this one."""
    python = os.environ.get("PEER_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import transformers, torch"], capture_output=True).returncode:
        pytest.skip(
            "transformers is not installed (extra peers); PEER_PYTHON may name a Python that has it"
        )
    cfg, params, expected = case
    hf.save(tmp_path, params, cfg, dtype="float32", shard_bytes=20_000)
    np.save(tmp_path / "tokens.npy", expected["tokens"])
    script = Path(__file__).with_name("make_hf.py")
    subprocess.run([python, script, "--check", tmp_path], check=True, capture_output=True)
    # The rotary tables are float32 in both, and torch computes their powers and cosines differently
    # on different CPUs.
    assert np.abs(np.load(tmp_path / "logits.npy") - expected["logits"]).max() <= 1e-5


@pytest.mark.parametrize("name", ["biases", "window", "yarn"])
def test_adapters_merge_into_such_models_and_are_saved_with_them(name, tmp_path):
    rules = make_rules(devices=jax.devices()[:1])
    cfg = hf.read_config(FOLDER / name)
    params, tokens = (
        hf.load(FOLDER / name, cfg, rules, "float32"),
        np.load(FOLDER / f"{name}.npz")["tokens"],
    )
    adapter = adapter_for(cfg, params)

    def logits(params, adapter):
        return np.asarray(
            llama.logits(params, llama.forward(params, adapter, jnp.asarray(tokens), cfg)[0])
        )

    adapted = logits(params, adapter)
    hf.save(tmp_path, adapters.merge(adapter, params), cfg, dtype="float32")
    assert hf.read_config(tmp_path) == cfg
    merged = logits(hf.load(tmp_path, cfg, rules, "float32"), None)
    assert np.abs(merged - adapted).max() <= 1e-4 < np.abs(adapted - logits(params, None)).max()


@pytest.mark.peers
def test_a_silent_config_means_the_defaults_of_transformers(tmp_path):
    """Every field that a file may leave out, by the config classes themselves."""
    transformers = pytest.importorskip("transformers")
    fields = (
        "num_key_value_heads",
        "max_position_embeddings",
        "sliding_window",
        "max_window_layers",
        "head_dim",
    )
    for name, family in hf_config.FAMILIES.items():
        theirs = transformers.AutoConfig.for_model(name)
        for field in fields:
            if field in family.defaults and not (
                field == "sliding_window" and name.startswith("qwen")
            ):
                assert family.defaults[field] == getattr(theirs, field), (name, field)
        written = {"model_type": name, "vocab_size": 8, "hidden_size": 4096, "intermediate_size": 8}
        written |= {"num_hidden_layers": 1, "num_attention_heads": 32}
        (tmp_path / "config.json").write_text(json.dumps(written))
        cfg = hf.read_config(tmp_path)
        assert (
            cfg.n_kv_heads == (theirs.num_key_value_heads or 32)
            and cfg.norm_eps == theirs.rms_norm_eps
        )
        assert cfg.max_seq_len == theirs.max_position_embeddings
        assert cfg.rope_theta == (theirs.rope_parameters or {}).get("rope_theta", 10000.0)
        assert cfg.window == (theirs.sliding_window if name == "mistral" else None)
