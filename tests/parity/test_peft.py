"""Folders that peft saved give peft's logits, gradients and training; folders that we save give
ours in peft.

make_peft.py wrote the fixtures. The second half runs it in a Python that has peft (marked peers).
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import adapter_for
from parity.peft_cases import SAVED

from lfl_jax import losses, state
from lfl_jax.adapters.build import is_layer
from lfl_jax.core import tree
from lfl_jax.core.sharding import make_rules
from lfl_jax.errors import UserError
from lfl_jax.io import hf, peft
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.peft import modules
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.train_step import train_step

HERE = Path(__file__).with_name("peft")
EXPECTED = dict(np.load(HERE / "expected.npz"))
CASES = sorted(path.name for path in HERE.iterdir() if path.is_dir() and path.name != "kinds")
OTHER = dict(np.load(HERE / "kinds" / "expected.npz"))
OTHER_TOKENS = jnp.asarray(OTHER.pop("tokens"))
TRAINED = [case for case in CASES if not case.startswith("tied")]
CFG = ModelConfig(
    vocab_size=64, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, rope_theta=500.0
)  # fmt: skip
TOKENS = jnp.asarray(EXPECTED["tokens"])


def base(tied=False):
    found = {}
    for name, value in EXPECTED.items():
        if name.startswith("base/") and not (tied and name == "base/head"):
            *parents, leaf = name.removeprefix("base/").split("/")
            branch = found
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[leaf] = jnp.asarray(value, jnp.float32)
    return found


def load(case):
    return peft.load(HERE / case, base(case.startswith("tied")))


@jax.jit
def forward(params, adapter, tokens):
    return llama.logits(params, llama.forward(params, adapter, tokens, CFG)[0])


def logits(params, adapter, tokens=TOKENS[:, :-1]):
    return np.asarray(forward(params, adapter, tokens))


def batch():
    rows, t = TOKENS.shape[0], TOKENS.shape[1] - 1
    ones, weights = np.ones((rows, t), np.int32), np.zeros((rows, t), np.float32)
    weights[:, (t + 1) // 2 :] = 1
    found = {"tokens": TOKENS[:, :-1], "targets": TOKENS[:, 1:], "weights": weights}
    return jax.tree.map(
        jnp.asarray, found | {"segment_ids": ones, "positions": np.cumsum(ones, axis=1) - 1}
    )


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
def differentiate(params, adapter):
    """((mean loss, logits), (gradients by params, by adapter))."""
    loss = losses.nll_sum(params, adapter, batch(), CFG) / batch()["weights"].sum()
    return loss, llama.logits(params, llama.forward(params, adapter, batch()["tokens"], CFG)[0])


@functools.cache
def computed(case):
    loaded = load(case)
    return differentiate(loaded.params, loaded.adapter)


def leaf_of(key, grads, rank):
    """The gradient behind a tensor of adapter_model.safetensors, in its layout."""
    if key.endswith("lm_head.weight"):
        return grads.params["head"]
    layer, module, leaf = re.fullmatch(
        r".*\.layers\.(\d)\.(.*?)\.(lora_.*?)(?:\.weight)?", key
    ).groups()
    path = {theirs: ours for ours, theirs in MODULES.items()}[module]
    part, name = path.split("/")
    found = grads.adapter["layers"][part][name]
    a, b = found.a[int(layer)].T[:rank], found.b[int(layer)].T[:, :rank]
    return {"lora_A": a, "lora_B": b, "lora_magnitude_vector": getattr(found, "m", a)[int(layer)]}[
        leaf
    ]


@pytest.mark.parametrize("case", CASES)
def test_logits_are_pefts(case):
    loaded, tied = load(case), case.startswith("tied")
    found, plain = np.asarray(computed(case)[0][1]), logits(base(tied), None)
    assert np.abs(found - EXPECTED[f"{case}/logits"]).max() <= 1e-4
    assert np.abs(plain - EXPECTED["tied/logits" if tied else "untied/logits"]).max() <= 1e-4
    assert np.abs(found - plain).max() > 1e-3
    assert bool(loaded.replaced) == (case in ("head", "tied_embedding"))
    if loaded.replaced:
        assert np.abs(found - logits(base(tied), loaded.adapter)).max() > 1e-3


# (IA)^3, VeRA, and models with biases and norms of q and k

BROUGHT = {
    "ia3_regex": {"head"},
    "lora_head": {"head"},
    "lora_both": {"embed", "head"},
    "tied_lora_embed": {"embed"},
    "tied_lora_head": {"head"},
    "tied_lora_both": {"embed", "head"},
    "qwen2_bias_all": {"head", "layers/qkv_bias/q", "layers/qkv_bias/k", "layers/qkv_bias/v"},
    "qwen2_lora_only": {"layers/qkv_bias/q"},
    "qwen2_whole": {"layers/attn/v", "layers/qkv_bias/v"},
    "qwen2_vera": {"layers/qkv_bias/q", "layers/qkv_bias/v"},
    "qwen3_ia3": {"layers/qk_norm/q"},
}


@functools.cache
def base_of(case):
    """(params, cfg) of a folder over the untied base, or over one of hf/."""
    folder = HERE.with_name("hf") / case.split("_")[0]
    if not folder.is_dir():
        return base(case.startswith("tied")), CFG
    cfg = hf.read_config(folder)
    return hf.load(folder, cfg, make_rules(devices=jax.devices()[:1]), "float32"), cfg


@functools.partial(jax.jit, static_argnums=2)
def logits_of(params, adapter, cfg):
    return llama.logits(params, llama.forward(params, adapter, OTHER_TOKENS, cfg)[0])


@pytest.mark.parametrize("case", OTHER)
def test_logits_of_other_kinds_and_families_are_pefts(case):
    params, cfg = base_of(case)
    loaded = peft.load(HERE / "kinds" / case, params)
    found, wanted = logits_of(loaded.params, loaded.adapter, cfg), OTHER[case]
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.abs(found - logits_of(params, None, cfg)).max() > 0.01
    assert set(loaded.replaced) == BROUGHT.get(case, set())
    assert ("added to the weights" in loaded.summary()) == ("lora_" in case and "qwen2" not in case)
    if loaded.replaced:
        assert np.abs(found - logits_of(params, loaded.adapter, cfg)).max() > 0.01


@pytest.mark.parametrize("case", OTHER)
def test_other_kinds_and_families_saved_again_are_the_same(case, tmp_path):
    params, _ = base_of(case)
    loaded = peft.load(HERE / "kinds" / case, params)
    own = {
        path: modules.get_path(loaded.params, path) for path in tree.changed(loaded.params, params)
    }
    peft.save(tmp_path, loaded.adapter, params, base_name="tiny", replaced=own)
    again = peft.load(tmp_path, params)
    assert jax.tree.structure(again.adapter) == jax.tree.structure(loaded.adapter)
    for one, other in ((again.adapter, loaded.adapter), (again.params, loaded.params)):
        assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_ia3_on_a_bias_is_refused_as_peft_scales_the_bias_too(tmp_path):
    params, cfg = base_of("qwen2")
    shutil.copytree(HERE / "kinds" / "qwen3_ia3", tmp_path / "ia3")
    with pytest.raises(
        UserError, match="IA..3 at .*q_proj, which has a bias: PEFT scales the bias too"
    ):
        peft.load(tmp_path / "ia3", params)
    adapter = adapter_for(cfg, params, "ia3", targets=("v",))
    with pytest.raises(UserError, match="IA..3 at .*v_proj, which has a bias"):
        peft.save(tmp_path / "ours", adapter, params, base_name="qwen2")


def test_biases_beside_a_whole_module_with_a_bias_have_no_form(tmp_path):
    params, cfg = base_of("qwen2")
    adapter = adapter_for(cfg, params, targets=("q",))
    own = {
        "layers/attn/v": params["layers"]["attn"]["v"] + 1,
        "layers/qkv_bias/q": params["layers"]["qkv_bias"]["q"],
    }
    with pytest.raises(UserError, match="biases, and a whole module with a bias"):
        peft.save(tmp_path / "ours", adapter, params, base_name="qwen2", replaced=own)


@pytest.mark.parametrize("case", TRAINED)
def test_gradients_are_pefts(case):
    loaded, ((value, _), (by_params, by_adapter)) = load(case), computed(case)
    np.testing.assert_allclose(value, EXPECTED[f"{case}/loss"], rtol=1e-5)
    wanted = {k.split("/")[-1]: v for k, v in EXPECTED.items() if k.startswith(f"{case}/grad/")}
    assert len(wanted) == len(load_file_keys(case))
    for key, gradient in wanted.items():
        rank = gradient.shape[0] if "lora_A" in key else gradient.shape[-1]
        found = leaf_of(key, Model(params=by_params, adapter=by_adapter), rank)
        np.testing.assert_allclose(
            found, gradient, rtol=1e-3, atol=1e-4 * np.abs(gradient).max(), err_msg=key
        )
    pairs = (jax.tree.leaves(x, is_leaf=is_layer) for x in (loaded.adapter, by_adapter))
    for layer, gradient in zip(*pairs, strict=True):
        assert layer is None or not np.any(gradient.a * (layer.scale == 0)[:, None]), (
            "padding has a gradient"
        )


def load_file_keys(case):
    from safetensors import safe_open

    with safe_open(HERE / case / "adapter_model.safetensors", framework="np") as opened:
        return set(opened.keys())


@optax.inject_hyperparams
def torch_adamw(clip):
    """torch's AdamW after clip_grad_norm_."""
    adamw = optax.adamw(1e-2, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.1)
    return optax.chain(optax.clip_by_global_norm(clip), adamw)


TX = torch_adamw(clip=0.05)  # a norm in its state: with and without clipping are one program


@pytest.mark.parametrize("case", TRAINED)
def test_training_follows_pefts(case):
    trainable = ("adapter/.*", "params/head") if case == "head" else ("adapter/.*",)
    micro = jax.tree.map(lambda x: x[None], batch())
    wanted = {1e9: EXPECTED[f"{case}/steps"], 0.05: EXPECTED[f"{case}/clipped_steps"]}
    for clip in wanted:
        loaded, found = load(case), []
        current, frozen = state.create(
            Model(params=loaded.params, adapter=loaded.adapter), trainable, TX
        )
        current.opt_state.hyperparams["clip"] = jnp.float32(clip)
        for _ in range(5):
            current, metrics = train_step(current, frozen, micro, None, cfg=CFG, tx=TX)
            found.append(float(metrics["loss"]))
        np.testing.assert_allclose(found, wanted[clip], rtol=1e-3)
    first, second = wanted.values()
    assert abs(first[-1] - first[0]) > 0.01 and abs(first[-1] - second[-1]) > 1e-3


# What we save, in peft


def moved(params, paths):
    """(parameters with noise on some, those alone by path)."""
    leaves = dict(tree.items(params))
    leaves["head"] = leaves.get("head", leaves["embed"])
    noise = np.random.default_rng(0)
    own = {
        path: leaves[path] + 0.2 * noise.standard_normal(leaves[path].shape, np.float32)
        for path in paths
    }
    for path, leaf in own.items():
        first, *rest = path.split("/")
        if not rest:
            params = params | {first: leaf}
        elif len(rest) == 1:
            params = params | {first: params[first] | {rest[0]: leaf}}
        else:
            branch = params[first][rest[0]] | {rest[1]: leaf}
            params = params | {first: params[first] | {rest[0]: branch}}
    return params, own


# Ours over the bases of hf/, read by peft
FAMILIES = {
    "qwen2_bias": ({"targets": ("q", "up")}, ("layers/qkv_bias/q", "head")),
    "qwen2_whole": ({"kind": "dora", "targets": ("q",)}, ("layers/attn/v", "layers/qkv_bias/v")),
    "qwen2_vera": ({"kind": "vera", "targets": ("q", "v")}, ("layers/qkv_bias/q",)),
    "qwen3_ia3": ({"kind": "ia3", "targets": ("q", "down")}, ("layers/qk_norm/q",)),
}


def save_over_family(case, folder, tokens):
    """Save with noise on these parameters; our logits."""
    (options, replaced), (params, cfg) = FAMILIES[case], base_of(case)
    adapter = adapter_for(cfg, params, **options)
    tuned, own = moved(params, replaced)
    peft.save(folder, adapter, params, base_name=case.split("_")[0], replaced=own)
    found = [llama.logits(p, llama.forward(p, adapter, tokens, cfg)[0]) for p in (tuned, params)]
    assert np.abs(found[0] - found[1]).max() > 0.01
    return (np.asarray(found[0]),)


def save_and_load(case, folder, tokens):
    """Save it, load it; ours: the logits of both (of what was loaded only, where saving rounds)."""
    options = dict(SAVED[case])
    dtype, replaced = options.pop("dtype", "float32"), options.pop("replaced", ())
    change = options.pop("change", lambda adapter: adapter)
    params = base(case.startswith("tied"))
    adapter = change(adapter_for(CFG, params, **options))
    tuned, own = moved(params, replaced)
    peft.save(folder, adapter, params, base_name="tiny", dtype=dtype, replaced=own)
    loaded = peft.load(folder, params)
    assert set(loaded.replaced) == set(replaced)
    again = logits(loaded.params, loaded.adapter, tokens)
    assert np.abs(logits(params, None, tokens) - again).max() > 0.1
    return (again,) if dtype == "bfloat16" else (again, logits(tuned, adapter, tokens))


@pytest.mark.peers
def test_what_we_save_peft_loads(tmp_path):
    """Runs make_peft.py in the Python named by PEER_PYTHON, or this one."""
    python = os.environ.get("PEER_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import peft"], capture_output=True).returncode:
        pytest.skip(
            "peft is not installed (extra peers); PEER_PYTHON may name a Python that has it"
        )
    tokens = np.random.default_rng(3).integers(0, 56, (2, 8)).astype(np.int32)
    np.save(tmp_path / "tokens.npy", tokens)
    ours = {case: save_and_load(case, tmp_path / case, jnp.asarray(tokens)) for case in SAVED}
    ours |= {
        case: save_over_family(case, tmp_path / case, jnp.asarray(tokens)) for case in FAMILIES
    }
    script = Path(__file__).with_name("make_peft.py")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [python, script, "--check", tmp_path], capture_output=True, text=True, env=env
    )
    assert run.returncode == 0, run.stderr[-2000:]
    theirs = {case: np.load(tmp_path / case / "logits.npy") for case in ours}
    found = {case: max(float(np.abs(theirs[case] - x).max()) for x in ours[case]) for case in ours}
    print({case: f"{x:.1e}" for case, x in found.items()})
    assert {case: x for case, x in found.items() if x > 1e-4} == {}
