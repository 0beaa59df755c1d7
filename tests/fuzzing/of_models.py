"""Readers of models, tokenizers and adapters, and whole files for them."""

import base64
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
from hf_folders import CASES, TINY_LLAMA

from fuzzing import mutations
from fuzzing.reader import Reader
from lfl_jax import adapters
from lfl_jax.assets import gguf_header
from lfl_jax.config import AdapterConfig
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
from lfl_jax.io import adapter_file, hf, peft, pretrained
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.text import jinja, tokenizers

RULES = make_rules(devices=jax.devices()[:1])
SMALL = ModelConfig(
    vocab_size=96, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48,
    max_seq_len=64,
)  # fmt: skip
MESSAGES = [{"role": "user", "content": "what is 1 + 1?"}, {"role": "assistant", "content": "2"}]


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


# -- tokenizers and templates

BACKTRACKS = {"Regex": r"(a+)+$"}
STEPS = [
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff" * 40).decode()},
    {"type": "Replace", "pattern": BACKTRACKS, "content": ""},
    {"type": "Replace", "pattern": {"Regex": "("}, "content": ""},
    {"type": "Split", "pattern": BACKTRACKS, "behavior": "Isolated", "invert": False},
    {"type": "Replace", "pattern": {"String": ""}, "content": "aa"},
    {"type": "Sequence", "normalizers": [], "pretokenizers": [], "decoders": []},
    {"type": "Prepend", "prepend": "x" * 10_000},
    {"type": "ByteLevel", "add_prefix_space": "false"},
    {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"},
    {"type": "Digits"},
    {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
]
ADDED = {"id": 300, "content": "<x>", "special": True, "lstrip": False, "rstrip": False,
         "normalized": False, "single_word": False}  # fmt: skip


def settings():
    return {
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "pad_token": "</s>",
        "added_tokens_decoder": {"0": {"content": "<unk>", "special": True}},
        "add_bos_token": True,
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }


def write_tokenizer(rng, folder):
    """tokenizer.json with its settings, one of which is mutated."""
    tree = json.loads((TINY_LLAMA / "tokenizer.json").read_text())
    given = settings() | {"added_tokens_decoder": {}}
    data, beside = json.dumps(tree).encode(), json.dumps(given).encode()
    if rng is not None and rng.random() < 0.4:
        beside = mutations.json_bytes(rng, given)
    elif rng is not None and rng.random() < 0.4:
        step = rng.choice(["normalizer", "pre_tokenizer", "decoder", "post_processor"])
        data = mutations.text_of(tree | {step: rng.choice(STEPS)})
    elif rng is not None:
        data = mutations.json_bytes(rng, tree)
    (folder / "tokenizer.json").write_bytes(data)
    (folder / "tokenizer_config.json").write_bytes(beside)


def write_sentencepiece(rng, folder):
    from sentencepiece import sentencepiece_model_pb2

    data, beside = (TINY_LLAMA / "tokenizer.model").read_bytes(), json.dumps(settings()).encode()
    if rng is not None and rng.random() < 0.4:
        beside = mutations.json_bytes(rng, settings())
    elif rng is not None and rng.random() < 0.5:
        data = mutations.damaged(rng, data)
    elif rng is not None:
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(data)
        _spoil_pieces(rng, proto)
        data = proto.SerializeToString()
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "tokenizer_config.json").write_bytes(beside)


def _spoil_pieces(rng, proto):
    piece = rng.choice(proto.pieces)
    match rng.choice(["score", "type", "text", "drop", "charsmap", "model", "ids", "twice"]):
        case "score":
            piece.score = rng.choice([math.nan, math.inf, -math.inf])
        case "type":
            piece.type = rng.choice([1, 2, 3, 4, 5, 6])
        case "text":
            piece.piece = rng.choice(["", "\u2581", "<0x00>", "</s>", "a" * 5000, "\x00"])
        case "drop":
            del proto.pieces[rng.randrange(len(proto.pieces)) :]
        case "charsmap":
            proto.normalizer_spec.precompiled_charsmap = rng.choice([b"\xff" * 30, b"", b"\0" * 8])
        case "model":
            proto.trainer_spec.model_type = rng.choice([1, 2, 3, 4])
        case "ids":
            proto.trainer_spec.eos_id = rng.choice([-1, 10**6, 0])
        case "twice":
            proto.pieces.append(piece)


def read_tokenizer(folder):
    tokenizer = tokenizers.from_folder(folder)
    texts = ["hello  world 12\n", "a" * 40 + "b", "é\u202e\x00 \U0001f600"]
    ids = [tokenizer.encode(text) for text in texts]
    tokenizer.encode_continuation(texts[0])
    tokenizer.encode_batch(texts)
    tokenizer.decode(ids[0]), tokenizer.pieces(ids[2])
    if tokenizer.chat_template:
        jinja.render(tokenizer.chat_template, MESSAGES[:1], True, tokenizer)
    return tokenizer, ids


def wrong_tokenizer(value, folder):
    tokenizer, ids = value
    specials = [tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id or 0]
    numbers = [*specials, *(i for row in ids for i in row)]
    outside = [i for i in numbers if not 0 <= i < tokenizer.vocab_size]
    return f"token {outside[0]} of {tokenizer.vocab_size}" if outside else ""


TEMPLATES = [
    "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{% set ns = namespace(x='a') %}{% for m in messages %}{% set ns.x = ns.x ~ m.content %}"
    "{% endfor %}{{ ns.x }}",
    "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages | tojson }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
    "{{ ns.x }}",
    "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(90) }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ 'a' | center(10 ** 10) }}{{ lipsum(n=10 ** 7) }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{{ ns.x }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{{ messages | map(attribute='content') | join('x' * 1000) }}",
    "{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}",
]
PARTS = [
    "{%",
    "%}",
    "{{",
    "}}",
    " endfor ",
    "for m in m",
    "|tojson",
    "'",
    "(",
    "\ud83d",
    "\x00",
    "{#",
]


def write_template(rng, folder):
    template = TEMPLATES[0]
    if rng is not None:
        template = rng.choice(TEMPLATES[:3]) if rng.random() < 0.95 else rng.choice(TEMPLATES[3:])
        for _ in range(rng.choice([0, 1, 1, 2]) if template in TEMPLATES[:3] else 0):
            at = rng.randrange(len(template))
            part = rng.choice([*PARTS, template[at : at + 9]])
            template = template[:at] + part + template[at + rng.choice([0, 1, 7]) :]
    (folder / "t.jinja").write_bytes(template.encode("utf-8", "surrogatepass"))


def read_template(folder):
    source = (folder / "t.jinja").read_bytes().decode("utf-8", "surrogatepass")
    return jinja.render(source, MESSAGES[:1], True, tokenizers.byte_tokenizer())


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
    "tokenizer.json": Reader(write_tokenizer, read_tokenizer, wrong_tokenizer, 1.5),
    "sentencepiece": Reader(write_sentencepiece, read_tokenizer, wrong_tokenizer, 1),
    "chat template": Reader(write_template, read_template, share=1),
    "peft": Reader(write_peft, read_peft, lambda value, folder: finite(value), 1.5),
    "adapter file": Reader(write_adapter, read_adapter, lambda value, folder: finite(value), 1),
}
