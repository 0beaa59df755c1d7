"""Hugging Face folders: what is refused, in one line, and what loading takes."""

import contextlib
import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from hf_folders import CASES, load
from hypothesis import given
from hypothesis import strategies as st
from mutate import LONG, SHORT, mutated
from safetensors.numpy import load_file, save_file

from lfl_jax.errors import UserError
from lfl_jax.io import hf, pretrained, tensor_file


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CASES / "mistral", tmp_path / "model")


def configure(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def shard_of(folder, name):
    return (
        folder
        / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]
    )


def change(folder, name, tensor):
    """The tensor replaced; None takes it out, of the index too."""
    file, index = shard_of(folder, name), folder / "model.safetensors.index.json"
    tensors = {k: v for k, v in (load_file(file) | {name: tensor}).items() if v is not None}
    save_file(tensors, file)
    if tensor is None:
        found = json.loads(index.read_text())
        del found["weight_map"][name]
        index.write_text(json.dumps(found))


def cut(folder):
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-5])


def wrong_header(folder):
    sorted(folder.glob("*.safetensors"))[0].write_bytes(b"\x10\0\0\0\0\0\0\0not json........")


def index_to(folder, place):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))


NORM, DOWN = "model.norm.weight", "model.layers.1.mlp.down_proj.weight"
MISTAKES = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "malformed config": (lambda f: (f / "config.json").write_text("{"), "malformed JSON"),
    "config no object": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "other architecture": (lambda f: configure(f, model_type="gpt2"), "model_type 'gpt2'; supported"
    " are llama"),
    "other activation": (lambda f: configure(f, hidden_act="gelu"), "hidden_act='gelu' is not"
    " supported"),
    "biases everywhere": (lambda f: configure(f, attention_bias=True), "attention_bias=True is not"
    " supported"),
    "quantised": (lambda f: configure(f, quantization_config={"bits": 4}), "quantization_config="),
    "window of text": (lambda f: configure(f, sliding_window="16"), "sliding_window is '16'"),
    "layer types": (lambda f: configure(f, layer_types=["sliding_attention", "full_attention"]), "layer_types"),
    "other rope": (lambda f: configure(f, rope_parameters={"rope_type": "mrope"}), "type 'mrope'; supported are"),
    "rope by length": (lambda f: configure(f, rope_parameters={"rope_type": "dynamic"}), "'dynamic' depend on the"),
    "rope of two lists": (
        lambda f: configure(f, rope_parameters={"rope_type": "longrope", "short_factor": [1], "long_factor": [2]}),
        "one list of factors",
    ),
    "part of a head": (lambda f: configure(f, rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    "constant rope": (
        lambda f: configure(f, rope_parameters={"rope_type": "yarn", "rope_theta": 0.5}),
        "rope_theta is 0.5; expected more",
    ),
    "rope no object": (lambda f: configure(f, rope_parameters=3), "rope_parameters is 3"),
    "size of text": (lambda f: configure(f, hidden_size="24"), "hidden_size is '24'; expected a"
    " positive integer"),
    "huge size": (lambda f: configure(f, vocab_size=10**12), "vocab_size is 1000000000000"),
    "no eps": (lambda f: configure(f, rms_norm_eps=0), "rms_norm_eps is 0; expected a positive"
                                                       " number"),
    "odd heads": (lambda f: configure(f, head_dim=7), "4 heads of 7 dimensions"),
    "more layers": (lambda f: configure(f, num_hidden_layers=3), r"'model.layers.2.*' is missing"
    r" \(9 of 30 are\)"),
    "a bomb of layers": (lambda f: configure(f, num_hidden_layers=10**9), "1000000000 layers by"
    " config.json, but only 21 tensors"),
    "fewer layers": (lambda f: configure(f, num_hidden_layers=1), "has no place in the model"),
    "another width": (lambda f: configure(f, intermediate_size=40), r"shape \(24, 32\); expected"
    r" \(24, 40\) by config.json"),
    "cut short": (cut, "not a whole safetensors file"),
    "wrong header": (wrong_header, "not a whole safetensors file"),
    "missing shard": (lambda f: shard_of(f, NORM).unlink(), r"shard model-.* is missing \(1 of 5"
    r" are\)"),
    "integers": (lambda f: change(f, NORM, np.ones(24, np.int8)), "'model.norm.weight' is I8;"
    " expected one of F32"),
    "missing tensor": (lambda f: change(f, DOWN, None), f"tensor '{DOWN}' is missing"),
    "wrong shape": (lambda f: change(f, NORM, np.ones(3, np.float32)), r"has shape \(3,\);"
    r" expected \(24,\) by config.json"),
    "index of nothing": (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "not an index"),
    **{
        f"index to {place}": (partial(index_to, place=place), "not an index")
        for place in ("../x.safetensors", "w/../../x.safetensors", "/x.safetensors", "./x.safetensors", "w/", "w\\x")
    },
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_damaged_folder_is_one_clear_line(mistake, folder):
    damage, message = MISTAKES[mistake]
    load(folder)
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_pickle_files_are_refused_with_the_reason(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="pickle files .*can run any code"):
        load(folder)


def test_an_index_that_puts_a_tensor_elsewhere_is_refused(folder):
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    places = index["weight_map"]
    places[NORM] = next(shard for shard in places.values() if shard != places[NORM])
    file.write_text(json.dumps(index))
    with pytest.raises(UserError, match="do not agree about tensor"):
        load(folder)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such model"):
        pretrained.open_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no model here"):
        pretrained.open_model(tmp_path)


BUFFERS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
    "model.layers.0.self_attn.rotary_emb.position_ids": np.arange(4),
    "model.embeddings.position_ids": np.arange(4),
    "model.causal_mask": np.ones((4, 4), bool),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_of_any_dtype_are_as_if_they_were_not_there(folder, name):
    change(folder, NORM, np.ones(24, np.float32))
    file = shard_of(folder, NORM)
    save_file(load_file(file) | {name: BUFFERS[name]}, file)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"][name] = file.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (load(folder)["final_norm"] == 1).all()


def test_shards_may_lie_in_folders_below(folder):
    expected, file = load(folder), folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    (folder / "weights" / "a.b").mkdir(parents=True)
    for shard in sorted(set(index["weight_map"].values())):
        (folder / shard).rename(folder / "weights" / "a.b" / shard)
    index["weight_map"] = {
        name: f"weights/a.b/{shard}" for name, shard in index["weight_map"].items()
    }
    file.write_text(json.dumps(index))
    assert jax.tree.all(jax.tree.map(np.array_equal, load(folder), expected))


def test_double_precision_is_read_as_single(folder):
    before = load(folder)["final_norm"]
    change(folder, NORM, np.asarray(before, np.float64))
    np.testing.assert_array_equal(load(folder)["final_norm"], before)


def with_head(tmp_path, head):
    """gqa_tied, whose config says tied, with this head in its file."""
    folder = shutil.copytree(CASES / "gqa_tied", tmp_path / "tied")
    name = next(name for name in sorted(p.name for p in folder.glob("*.safetensors")))
    save_file(load_file(folder / name) | {"lm_head.weight": head}, folder / name)
    index = folder / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    fields["weight_map"]["lm_head.weight"] = name
    index.write_text(json.dumps(fields))
    return folder


def test_a_tied_model_whose_file_holds_a_head_of_its_own_uses_it(tmp_path):
    """As transformers 5 does; a copy of the embedding, which some files hold, is none."""
    embed = np.asarray(load(CASES / "gqa_tied")["embed"])
    own = embed.copy()
    own[-1, -1] += 1
    folder = with_head(tmp_path, own)
    params = load(folder)
    np.testing.assert_array_equal(params["head"], own)
    np.testing.assert_array_equal(params["embed"], embed)
    hf.save(tmp_path / "again", params, hf.read_config(folder), dtype="float32")
    assert (
        json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    shutil.rmtree(folder)
    assert "head" not in load(with_head(tmp_path, embed))


def test_a_silent_config_means_what_transformers_fills_in(folder):
    """Mistral 0.1's window of 4096, and 8 key-value heads: test_defaults compares them with its
    config classes."""
    file = folder / "config.json"
    fields = json.loads(file.read_text())
    assert hf.read_config(folder).window is None  # written out: null
    del fields["sliding_window"]
    file.write_text(json.dumps(fields))
    assert hf.read_config(folder).window == 4096


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({}, None),
        ({"use_sliding_window": True}, None),  # max_window_layers is 28, of 2
        ({"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 5}, 5),
        ({"use_sliding_window": True, "max_window_layers": 1}, UserError),
        (
            {
                "use_sliding_window": True,
                "layer_types": ["sliding_attention"] * 2,
                "sliding_window": 7,
            },
            7,
        ),
        ({"use_sliding_window": False, "layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_qwens_window_is_one_for_all_layers_or_none(fields, window, tmp_path):
    folder = shutil.copytree(CASES / "qwen2", tmp_path / "qwen2")
    kept = json.loads((folder / "config.json").read_text())
    for name in ("use_sliding_window", "max_window_layers", "sliding_window", "layer_types"):
        kept.pop(name, None)
    (folder / "config.json").write_text(json.dumps(kept | fields))
    if window is UserError:
        with pytest.raises(UserError, match="not all 'full_attention'"):
            hf.read_config(folder)
    else:
        cfg = hf.read_config(folder)
        assert cfg.window == window
        hf.save(tmp_path / "again", load(folder), cfg)
        assert hf.read_config(tmp_path / "again") == cfg


def test_both_spellings_of_the_rotary_fields_mean_the_same(folder):
    new = hf.read_config(CASES / "llama3_fp16")
    shutil.copy(CASES / "llama3_fp16" / "config.json", folder)
    fields = json.loads((folder / "config.json").read_text())
    rope = fields.pop("rope_parameters")
    fields |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (folder / "config.json").write_text(json.dumps(fields))
    assert (
        hf.read_config(folder) == new and new.rope_scaling.factor == 8.0 and new.rope_theta == 500.0
    )


def test_an_old_set_of_shards_is_gone_after_a_save(folder):
    params, cfg = load(folder), hf.read_config(folder)
    assert hf.save(folder, params, cfg, dtype="bfloat16") == ["model.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = load(folder)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), again, params)


def check_mutations(tmp_path, draw):
    files = {p.name: p.read_bytes() for p in (CASES / "mha_bf16").iterdir()}
    name = draw(st.sampled_from(sorted(files)))
    folder = tmp_path / "fuzz"
    folder.mkdir(exist_ok=True)
    for each, content in (files | {name: mutated(draw, files[name])}).items():
        (folder / each).write_bytes(content)
    with contextlib.suppress(UserError):
        load(folder)


@SHORT
@given(st.data())
def test_a_mutated_checkpoint_loads_or_is_refused(tmp_path, data):
    check_mutations(tmp_path, data.draw)


@pytest.mark.slow
@LONG
@given(st.data())
def test_thousands_of_mutated_checkpoints_load_or_are_refused(tmp_path, data):
    check_mutations(tmp_path, data.draw)


def test_a_tensor_file_reads_what_is_asked_for(tmp_path):
    parts = {f"t{i}": np.full((10, 10), i, np.float32) for i in range(5)}
    names = tensor_file.save(
        tmp_path, parts.items(), shard_bytes=1000, metadata={"about": "numbers"}
    )
    assert names == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    tensors = tensor_file.open_folder(tmp_path)
    assert tensors.metadata["about"] == "numbers" and tensors.shapes["t3"] == (10, 10)
    assert all((tensors[name] == parts[name]).all() for name in parts)
