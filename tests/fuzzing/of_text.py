"""Readers of tokenizers and chat templates, and whole files for them."""

import base64
import json
import math

from hf_folders import TINY_LLAMA

from fuzzing import mutations
from fuzzing.reader import Reader
from lfl_jax.text import jinja, tokenizers

MESSAGES = [{"role": "user", "content": "what is 1 + 1?"}, {"role": "assistant", "content": "2"}]
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


READERS = {
    "tokenizer.json": Reader(write_tokenizer, read_tokenizer, wrong_tokenizer, 1.5),
    "sentencepiece": Reader(write_sentencepiece, read_tokenizer, wrong_tokenizer, 1),
    "chat template": Reader(write_template, read_template, share=1),
}
