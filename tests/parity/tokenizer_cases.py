"""Folders and GGUF files whose tokenizers test_tokenizers.py compares with transformers'
(make_tokenizers.py)."""

import json
import shutil
from pathlib import Path

LLAMA = Path(__file__).parents[1] / "fixtures" / "tiny_llama"
ADDED = {"<|x|>": 600, "<|y|>": 601}
DECODER = {
    str(i): {"content": text, "special": True, "normalized": False} for text, i in ADDED.items()
}
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
LEGACY = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
JSON, MODEL = "tokenizer.json", "tokenizer.model"


def _json(processor: bool, flag: bool | None) -> tuple:
    changes = {} if processor else {"post_processor": None}
    return JSON, changes, NAMED | ({} if flag is None else {"add_bos_token": flag}), {}


# name -> (vocabulary file, changes of tokenizer.json, tokenizer_config.json, other files)
FOLDERS: dict[str, tuple] = {
    **{f"processor {p}, flag {f}": _json(p, f) for p in (True, False) for f in (True, False, None)},
    "padding beside": (JSON, {}, NAMED | {"pad_token": "[PAD]"}, {}),
    "map wins": (
        JSON,
        {},
        NAMED,
        {"special_tokens_map.json": {"eos_token": "</s>", "pad_token": "<unk>"}},
    ),
    "map ignored": (
        JSON,
        {},
        NAMED | {"pad_token": "</s>", "added_tokens_decoder": DECODER},
        {"special_tokens_map.json": {"pad_token": "<unk>"}},
    ),
    "added beside": (JSON, {}, NAMED, {"added_tokens.json": ADDED}),
    "sentencepiece, no bos": (MODEL, {}, LEGACY | {"add_bos_token": False}, {}),
    "sentencepiece, legacy": (MODEL, {}, LEGACY | {"legacy": True}, {"added_tokens.json": ADDED}),
    "sentencepiece": (MODEL, {}, LEGACY | {"legacy": False}, {"added_tokens.json": ADDED}),
    "sentencepiece, decoder": (
        MODEL,
        {},
        LEGACY | {"legacy": False, "added_tokens_decoder": DECODER},
        {},
    ),
    "sentencepiece, padding": (MODEL, {}, LEGACY | {"legacy": False, "pad_token": "[PAD]"}, {}),
}
# No text that begins with a space, or has one after a special token: there transformers 5 leaves
# out the space that SentencePiece adds, in its class for Llama alone; Llama-2's own tokenizer.json
# has it.
TEXTS = [
    "the",
    "Question: 12+30?\nAnswer:",
    "café naïve",
    "日本語 👩‍👦",
    "a  b\t\tc\n\n",
    "a<|x|>b",
    "x</s>y",
    "eggs<|y|>",
]
CONTINUATIONS = [" 42 apples", "    return x", "\tb", "é", "日本"]

GGUF_RULES = ("llama-bpe", "qwen2", "smollm", "gpt-2")
GGUF_TEXTS = [
    "I'LL say it's 1234567 o'clock",
    "a  b\n\n\n  c \t d",
    "x=3;// done!!\r\nyes",
    "Zoë—naïve 12,345.67",
    "日本語 ١٢٣٤ Ⅷ½",
    "e\u0301 A\u030a <|end|> tail",
]


def write_folder(name: str, folder: Path) -> Path:
    """The case's files; config.json says llama, as transformers wants it."""
    vocabulary, changes, settings, files = FOLDERS[name]
    shutil.copy(LLAMA / vocabulary, folder)
    if changes:
        tree = json.loads((folder / vocabulary).read_text())
        (folder / vocabulary).write_text(json.dumps(tree | changes))
    for file, content in (
        {"tokenizer_config.json": settings, "config.json": {"model_type": "llama"}} | files
    ).items():
        (folder / file).write_text(json.dumps(content))
    return folder


def write_gguf(rule: str, vocabulary: dict, file: Path) -> Path:
    """A GGUF file with a byte-level vocabulary {"tokens", "merges"} and this splitting rule; no
    weights."""
    from gguf import GGUFWriter

    tokens = vocabulary["tokens"]
    writer = GGUFWriter(str(file), "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_bos_token_id(tokens.index("<|begin|>"))
    writer.add_eos_token_id(tokens.index("<|end|>"))
    writer.add_token_merges(vocabulary["merges"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file
