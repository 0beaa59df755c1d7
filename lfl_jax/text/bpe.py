"""Tokenizers run by the tokenizers library: tokenizer.json files and the byte-level BPE in GGUF files."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfl_jax.errors import UserError
from lfl_jax.text import gguf_header
from lfl_jax.text.base import (
    CONTROL,
    USER_DEFINED,
    AnyPath,
    Tokenizer,
    gguf_specials,
    hf_files,
    hf_settings,
    parsing,
    sentencepiece_text,
    shown,
)

if TYPE_CHECKING:
    import tokenizers


def from_json(path: AnyPath) -> Tokenizer:
    """Read a Hugging Face tokenizer.json, given it or its directory.

    BOS, EOS, padding, add_bos_token and the chat template come from tokenizer_config.json,
    special_tokens_map.json and chat_template.jinja beside it. Without add_bos_token, the tokenizer's own
    post-processor decides.
    """
    import tokenizers

    file = Path(path) / "tokenizer.json" if os.path.isdir(path) else Path(path)
    tree = _read_json(file)
    settings = _settings(file.parent)
    try:
        whole = tokenizers.Tokenizer.from_str(json.dumps(tree))
        bare = _without_prefix(tree)
        continuing = whole if bare == tree else tokenizers.Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise UserError(f"{file}: not a tokenizer.json: {error}") from None
    eos = _token_text(settings, "eos_token")
    if eos is None:
        raise UserError(f"{file}: no eos_token in the tokenizer_config.json or special_tokens_map.json beside it")
    bos, pad = _token_text(settings, "bos_token"), _token_text(settings, "pad_token") or eos
    unknown = [text for text in (bos, eos, pad) if text is not None and whole.token_to_id(text) is None]
    if unknown:
        raise UserError(f"{file}: special token {unknown[0]!r} of the files beside it is not in the vocabulary")
    for tokenizer in (whole, continuing):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    bos_id = None if bos is None else whole.token_to_id(bos)
    add_bos = settings["add_bos_token"] if "add_bos_token" in settings else whole.encode("a").ids[:1] == [bos_id]
    return _from_hf(
        whole,
        continuing,
        byte_level='"ByteLevel"' in json.dumps(tree.get("decoder")),
        bos_id=bos_id,
        eos_id=whole.token_to_id(eos),
        pad_id=whole.token_to_id(pad),
        add_bos=bool(add_bos) and bos_id is not None,
        chat_template=_chat_template(file.parent, settings),
        files=lambda: hf_files(file.parent),
    )


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """Build the byte-level BPE ("gpt2") tokenizer of a GGUF file."""
    tokens = gguf_header.array(metadata, "tokenizer.ggml.tokens", str)
    types = gguf_header.array(metadata, "tokenizer.ggml.token_type", int, len(tokens))
    merges = gguf_header.array(metadata, "tokenizer.ggml.merges", str)
    rule = gguf_header.field(metadata, "tokenizer.ggml.pre", str)
    tokenizer = _byte_level_bpe(metadata["GGUF.path"], tokens, merges, rule)
    for added_type in (CONTROL, USER_DEFINED):
        texts = [token for token, type_ in zip(tokens, types, strict=True) if type_ == added_type]
        _add_tokens(tokenizer, texts, special=added_type == CONTROL)
    specials = gguf_specials(metadata, tokens, add_bos=False)
    files = partial(_gguf_files, tokenizer, tokens, specials)
    return _from_hf(tokenizer, tokenizer, byte_level=True, files=files, **specials)


def _gguf_files(tokenizer: "tokenizers.Tokenizer", tokens: list[str], specials: dict[str, Any]) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json, with BOS put before a text where the model wants it."""
    from tokenizers import processors

    bos, eos, pad = (None if i is None else tokens[i] for i in (specials[f"{x}_id"] for x in ("bos", "eos", "pad")))
    if specials["add_bos"]:
        special = [(bos, specials["bos_id"])]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A $B", special)
    settings = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "chat_template": specials["chat_template"]}
    config = hf_settings("PreTrainedTokenizerFast", clean_up_tokenization_spaces=False, **settings)
    return {"tokenizer.json": tokenizer.to_str(pretty=True).encode(), "tokenizer_config.json": config}


def _byte_level_bpe(path: str, tokens: list[str], merges: list[str], rule: str) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    # llama.cpp's name of the rule -> the rule. SmolLM's merges were learned with every digit apart. Without
    # that step, runs of spaces or line breaks before a number lose their last one to a token of its own.
    splits = {
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
    }
    if rule not in splits:
        known = ", ".join(splits)
        raise UserError(f"{path}: byte-level BPE split by rule {rule!r}; known are {known}. Use its tokenizer.json.")
    try:
        pairs = [tuple(merge.split(" ")) for merge in merges]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    except Exception as error:  # the library raises bare Exception, a pair of three parts a TypeError
        raise UserError(f"{path}: its vocabulary and merges do not fit together: {error}") from None
    tokenizer.pre_tokenizer = splits[rule]
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add_tokens(tokenizer: "tokenizers.Tokenizer", texts: list[str], special: bool) -> None:
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text in texts])


def _from_hf(
    whole: "tokenizers.Tokenizer", continuing: "tokenizers.Tokenizer", byte_level: bool, **specials: Any
) -> Tokenizer:
    show = _byte_level_piece() if byte_level else sentencepiece_text
    added = {i: token.content for i, token in whole.get_added_tokens_decoder().items()}

    def encode(text: str) -> list[int]:
        return whole.encode(text, add_special_tokens=False).ids

    def without_prefix(text: str) -> list[int]:
        return continuing.encode(text, add_special_tokens=False).ids

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in whole.encode_batch_fast(list(texts), add_special_tokens=False)]

    def pieces(ids: Sequence[int]) -> list[str]:
        return [added[i] if i in added else show(whole.id_to_token(i) or "") for i in ids]

    # What follows a special token in a text gets the leading space again, as it does in `encode`.
    ids_of = {text: i for i, text in added.items()}
    return Tokenizer(
        encode=encode,
        encode_continuation=encode if continuing is whole else parsing(ids_of, without_prefix, encode),
        encode_batch=encode_batch,
        decode=lambda ids: whole.decode(list(ids)),
        pieces=pieces,
        vocab_size=1 + max(whole.get_vocab().values()),
        bos=None if specials["bos_id"] is None else whole.id_to_token(specials["bos_id"]),
        eos=whole.id_to_token(specials["eos_id"]),
        **specials,
    )


def _without_prefix(tree: dict[str, Any]) -> dict[str, Any]:
    """Copy a tokenizer.json without the steps that put a space before the text."""

    def strip(node: Any) -> Any:
        if isinstance(node, list):
            prepends = [isinstance(item, dict) and item.get("type") == "Prepend" for item in node]
            return [strip(item) for item, prepend in zip(node, prepends, strict=True) if not prepend]
        if not isinstance(node, dict):
            return node
        node = {key: strip(value) for key, value in node.items()}
        if node.get("type") == "ByteLevel":
            node["add_prefix_space"] = False
        if node.get("type") == "Metaspace":
            node["prepend_scheme"] = "never"
        return node

    steps = {key: strip(tree[key]) for key in ("normalizer", "pre_tokenizer") if key in tree}
    if isinstance(steps.get("normalizer"), dict) and steps["normalizer"].get("type") == "Prepend":
        steps["normalizer"] = None
    return tree | steps


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= _read_json(folder / name)
    return settings


def _read_json(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such tokenizer file") from None
    except ValueError as error:
        raise UserError(f"{file}: malformed JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file}: expected a JSON object")
    return tree


def _token_text(settings: dict[str, Any], key: str) -> str | None:
    value = settings.get(key)
    return value["content"] if isinstance(value, dict) else value


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _byte_level_piece() -> Callable[[str], str]:
    # GPT-2 writes each byte as a printable character: as in Latin-1 where that is one, else from U+0100 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in printable)}

    def piece(token: str) -> str:
        known = all(char in byte_of for char in token)
        return shown(bytes(byte_of[char] for char in token)) if known else token

    return piece
