"""Readers of models and adapters, and whole files for them."""

import functools
import itertools
import json
import math
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
from fixtures import tiny_gguf
from hf_folders import CASES

from fuzzing import mutations
from fuzzing.of_text import MESSAGES
from fuzzing.reader import Reader
from lfl_jax import adapters
from lfl_jax.assets import gguf_header
from lfl_jax.config import AdapterConfig
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
from lfl_jax.io import adapter_file, hf, peft, pretrained
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.text import jinja

RULES = make_rules(devices=jax.devices()[:1])
SMALL = ModelConfig(
    vocab_size=96, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48,
    max_seq_len=64,
)  # fmt: skip


def finite(tree):
    """The numbers of a tree that are not finite, in words."""
    bad = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    bad = [x.shape for x in bad if not bool(jnp.isfinite(x).all())]
    return f"numbers that are not finite in tensors of shape {bad[0]}" if bad else ""


# -- config.json, and whole folders


def hf_fields():
    return json.loads((CASES / "mistral" / "config.json").read_text()) | {
        "rope_theta": 10000.0,
        "attention_bias": False,
        "model_type": "llama",
        "mlp_bias": False,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": None,
    }


def write_config(rng, folder):
    fields = hf_fields()
    data = json.dumps(fields).encode() if rng is None else mutations.json_bytes(rng, fields)
    (folder / "config.json").write_bytes(data)


def wrong_config(cfg, folder):
    """Fields that are another number, or no number, in the file as Python's json reads it."""
    raw = json.loads((folder / "config.json").read_bytes().decode("utf-8"))
    pairs = {
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "hidden_size": cfg.d_model,
        "vocab_size": cfg.vocab_size,
        "num_hidden_layers": cfg.n_layers,
    }
    if not isinstance(raw.get("rope_parameters"), dict):
        pairs["rope_theta"] = cfg.rope_theta
    for name, value in pairs.items():
        if raw.get(name) is None:
            continue
        if type(raw[name]) is not type(value) and not (
            type(raw[name]) is int and type(value) is float
        ):
            return f"{name} is a {type(raw[name]).__name__}: {raw[name]!r:.40}"
        if type(value)(raw[name]) != value:
            return f"{name} is {raw[name]!r:.40}, read as {value!r}"
    numbers = [cfg.rope_theta, cfg.norm_eps]
    if cfg.rope_scaling is not None:
        fields = vars(cfg.rope_scaling).values()
        numbers += [x for x in fields if isinstance(x, int | float)]
    return "" if all(math.isfinite(x) for x in numbers) else f"not finite: {numbers}"


def write_folder(rng, folder):
    """A sharded model with a tokenizer, one of whose files is mutated."""
    shutil.copytree(CASES / "mistral", folder, dirs_exist_ok=True)
    if rng is None:
        return
    names = ["config.json", "model.safetensors.index.json"]
    names += [f"model-0000{i}-of-00005.safetensors" for i in (1, 2, 3)] * 2
    file = folder / rng.choice(names)
    if file.suffix == ".json":
        file.write_bytes(mutations.json_bytes(rng, json.loads(file.read_text())))
    else:
        file.write_bytes(mutations.safetensors_bytes(rng, file.read_bytes()))


def read_folder(folder):
    model = pretrained.open_model(folder)
    return model.cfg, model.load(model.cfg, RULES, "float32")


def wrong_params(value, folder):
    return finite(value[1]) or wrong_config(value[0], folder)


# -- GGUF


@functools.cache
def whole_gguf():
    numbers = {
        "block_count": 2, "embedding_length": 32, "attention.head_count": 4,
        "attention.head_count_kv": 2, "feed_forward_length": 64, "context_length": 64,
        "rope.dimension_count": 8,
    }  # fmt: skip
    fields = [("general.architecture", 8, "llama")]
    fields += [(f"llama.{key}", 4, value) for key, value in numbers.items()]
    fields += [
        ("llama.rope.freq_base", 6, 5000.0),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
        ("llama.rope.scaling.type", 8, "linear"),
        ("llama.rope.scaling.factor", 6, 2.0),
        ("tokenizer.ggml.model", 8, "llama"),
        ("tokenizer.ggml.tokens", 9, (8, PIECES)),
        ("tokenizer.ggml.scores", 9, (6, [0.0] * len(PIECES))),
        ("tokenizer.ggml.token_type", 9, (5, [2, 3, 3] + [6] * 256 + [1] * (len(PIECES) - 259))),
        ("tokenizer.ggml.bos_token_id", 4, 1),
        ("tokenizer.ggml.eos_token_id", 4, 2),
        ("tokenizer.ggml.add_bos_token", 7, True),
        ("tokenizer.chat_template", 8, "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ]
    tensors = tiny_gguf.tensors()
    rows = np.random.default_rng(0).normal(size=(len(PIECES), 32)).astype(np.float32)
    return mutations.Gguf(fields, tensors | {"token_embd.weight": rows, "output.weight": rows})


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", *"abcdefgh"]


def write_gguf(rng, folder):
    whole = whole_gguf()
    data = whole.to_bytes() if rng is None else mutations.gguf_bytes(rng, whole)
    (folder / "m.gguf").write_bytes(data)


def read_gguf(folder):
    model = pretrained.open_model(folder)
    tokenizer = model.tokenizer()
    ids = tokenizer.encode("abc a")
    tokenizer.decode(ids)
    if tokenizer.chat_template:
        jinja.render(tokenizer.chat_template, MESSAGES[:1], True, tokenizer)
    return model.cfg, model.load(model.cfg, RULES, "float32"), ids, tokenizer


def wrong_gguf(value, folder):
    cfg, params, ids, tokenizer = value
    infos = gguf_header.read(folder / "m.gguf")["GGUF.tensors"].values()
    ends = sorted((info.offset, info.offset + info.n_bytes) for info in infos)
    overlaps = [one for one, two in itertools.pairwise(ends) if one[1] > two[0]]
    if overlaps:
        return f"tensors overlap at {overlaps[0]}"
    if any(info.offset % 4 for info in infos):
        return "a tensor that is not aligned"
    if max([tokenizer.eos_id, *ids]) >= params["embed"].shape[0]:
        return "an embedding smaller than the vocabulary"
    if not (0 < cfg.rope_theta < math.inf and 0 < cfg.norm_eps < math.inf):
        return f"theta {cfg.rope_theta}, epsilon {cfg.norm_eps}"
    return finite(params)


# -- adapters


@functools.cache
def small_params():
    return spec.init(llama.specs(SMALL), jax.random.key(0))


@functools.cache
def trained(kind):
    params = small_params()
    config = AdapterConfig(kind=kind, rank=2, targets=("q", "v"))
    adapter = adapters.init(adapters.specs(llama.specs(SMALL), config), params, jax.random.key(1))
    return jax.tree.map(lambda x: x + 0.1 if x.ndim == 3 else x, adapter)


REGEXES = [
    r"((\w|\.|_)+)+!", r".*.*.*.*.*.*.*.*.*.*!", r".*\.(q_proj|v_proj)", "(", "[", "(?P<a>x)(?P<a>y)",
    r"(.*)*\1$", r"(a{1,9999}){1,9999}", r"^model\.layers\.(0|1)\..*q_proj$", "all-linear", "",
    r"(?:.*?(?:x|y|).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)", r"\Z" * 50, r"(?i)Q_PROJ",
]  # fmt: skip


def write_peft(rng, folder):
    _saved_peft(folder)
    if rng is None:
        return
    file = folder / "adapter_config.json"
    fields = json.loads(file.read_text()) | {"rank_pattern": {}, "modules_to_save": None}
    if rng.random() < 0.3:
        regex = rng.choice(REGEXES)
        values = {"target_modules": regex, "modules_to_save": [regex], "rank_pattern": {regex: 2},
                  "exclude_modules": regex, "alpha_pattern": {regex: 4}, "layers_pattern": [regex]}  # fmt: skip
        field = rng.choice(list(values))
        extra = {"layers_to_transform": [0]} if field == "layers_pattern" else {}
        file.write_bytes(mutations.text_of(fields | {field: values[field]} | extra))
    elif rng.random() < 0.6:
        file.write_bytes(mutations.json_bytes(rng, fields))
    else:
        tensors = folder / "adapter_model.safetensors"
        tensors.write_bytes(mutations.safetensors_bytes(rng, tensors.read_bytes()))


def _saved_peft(folder):
    peft.save(folder, trained("lora"), small_params(), base_name="")


def read_peft(folder):
    loaded = peft.load(folder, small_params())
    return loaded.adapter, loaded.params


def write_adapter(rng, folder):
    file = folder / "a.safetensors"
    kind = "lora" if rng is None else rng.choice(["lora", "dora"])
    adapter_file.save(file, trained(kind), fingerprint="cafe")
    if rng is None:
        return
    data = file.read_bytes()
    if rng.random() < 0.5:
        data = _other_structure(rng, data)
    else:
        data = mutations.safetensors_bytes(rng, data)
    file.write_bytes(data)


def _other_structure(rng, data):
    """The JSON inside of the header's metadata, mutated."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    structure = json.loads(header["__metadata__"][adapter_file.STRUCTURE])
    changed = mutations.json_bytes(rng, structure).decode("utf-8", "replace")
    header["__metadata__"][adapter_file.STRUCTURE] = changed
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def read_adapter(folder):
    return adapter_file.load(folder / "a.safetensors", small_params(), fingerprint="cafe")


READERS = {
    "config.json of a model": Reader(write_config, hf.read_config, wrong_config, 2),
    "safetensors folder": Reader(write_folder, read_folder, wrong_params, 1.5),
    "gguf": Reader(write_gguf, read_gguf, wrong_gguf, 2),
    "peft": Reader(write_peft, read_peft, lambda value, folder: finite(value), 1.5),
    "adapter file": Reader(write_adapter, read_adapter, lambda value, folder: finite(value), 1),
}
