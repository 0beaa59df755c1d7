"""Tokenizers run by the tokenizers library: tokenizer.json files and the byte-level BPE in GGUF
files."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfl_jax.assets import gguf_header
from lfl_jax.core.files import read_json_object
from lfl_jax.errors import UserError
from lfl_jax.text.tokenizer import (
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
from lfl_jax.text.tokenizer_files import (
    Added,
    added_tokens,
    chat_template,
    read_settings,
    token_text,
)

if TYPE_CHECKING:
    import tokenizers


def from_json(path: AnyPath) -> Tokenizer:
    """Read a Hugging Face tokenizer.json, given it or its directory.

    EOS, padding, further added tokens and the chat template come from the files beside it
    (`tokenizer_files`). BOS is what the tokenizer's own post-processor puts before a text, and
    add_bos_token is not read: so does transformers 5, and so are the scores that others publish.
    """
    file = Path(path) / "tokenizer.json" if os.path.isdir(path) else Path(path)
    tree, settings = read_json_object(file), read_settings(file.parent)
    added = added_tokens(file.parent, settings)
    whole, continuing = _build(file, tree, added)
    eos = token_text(settings, "eos_token")
    if eos is None:
        raise UserError(
            f"{file}: no eos_token in the tokenizer_config.json or special_tokens_map.json beside"
            " it"
        )
    bos, pad = token_text(settings, "bos_token"), token_text(settings, "pad_token") or eos
    unknown = [text for text in (bos, eos) if text is not None and whole.token_to_id(text) is None]
    if unknown:
        raise UserError(
            f"{file}: special token {unknown[0]!r} of the files beside it is not in the vocabulary"
        )
    if whole.token_to_id(pad) is None:  # transformers adds it, too
        for tokenizer in (whole, continuing):
            _add_tokens(tokenizer, [pad], special=True)
    before = _before(whole)
    bos_id = before if before is not None else bos and whole.token_to_id(bos)
    return _from_hf(
        whole,
        continuing,
        byte_level='"ByteLevel"' in json.dumps(tree.get("decoder")),
        bos_id=bos_id,
        eos_id=whole.token_to_id(eos),
        pad_id=whole.token_to_id(pad),
        add_bos=before is not None,
        chat_template=chat_template(file.parent, settings),
        files=lambda: hf_files(file.parent),
    )


def _build(
    file: Path, tree: dict[str, Any], added: list[Added]
) -> tuple["tokenizers.Tokenizer", ...]:
    """The tokenizer for a whole text, and that for text that goes on from other text; the same
    where that is all one.

    UserError for a malformed file, and for added tokens whose ids are not those that follow the
    vocabulary.
    """
    import tokenizers

    listed = tree.get("added_tokens") or []
    known = {token.get("content") for token in listed if isinstance(token, dict)}
    more = [token.as_json() for token in added if token.text not in known]
    tree = tree | {"added_tokens": [*listed, *more]} if more else tree
    try:
        whole = tokenizers.Tokenizer.from_str(json.dumps(tree))
        bare = _without_prefix(tree)
        continuing = whole if bare == tree else tokenizers.Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise UserError(f"{file}: not a tokenizer.json: {error}") from None
    for token in added:
        if whole.token_to_id(token.text) != token.id:
            raise UserError(
                f"{file}: the files beside it give added token {token.text!r} the id {token.id},"
                " which here is"
                f" {whole.token_to_id(token.text)}; they are not of one tokenizer"
            )
    for tokenizer in (whole, continuing):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return whole, continuing


def _before(whole: "tokenizers.Tokenizer") -> int | None:
    """The token that the post-processor puts before every text, or None."""
    ids, bare = whole.encode("a").ids, whole.encode("a", add_special_tokens=False).ids
    return ids[0] if ids[1 : 1 + len(bare)] == bare else None


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
    specials = gguf_specials(metadata, tokens, add_bos=rule in _LLAMA3)
    files = partial(_gguf_files, tokenizer, tokens, specials)
    return _from_hf(tokenizer, tokenizer, byte_level=True, files=files, **specials)


def _gguf_files(
    tokenizer: "tokenizers.Tokenizer", tokens: list[str], specials: dict[str, Any]
) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json, with BOS put before a text where the model wants
    it."""
    from tokenizers import processors

    bos, eos, pad = (
        None if i is None else tokens[i]
        for i in (specials[f"{x}_id"] for x in ("bos", "eos", "pad"))
    )
    if specials["add_bos"]:
        special = [(bos, specials["bos_id"])]
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{bos} $A", f"{bos} $A $B", special
        )
    settings = {
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "chat_template": specials["chat_template"],
    }
    config = hf_settings("PreTrainedTokenizerFast", clean_up_tokenization_spaces=False, **settings)
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": config,
    }


def _byte_level_bpe(
    path: str, tokens: list[str], merges: list[str], rule: str
) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models

    if rule not in _RULES:
        known = ", ".join(_RULES)
        raise UserError(
            f"{path}: byte-level BPE split by rule {rule!r}; known are {known}."
            " Name a folder with its tokenizer.json: config.model.tokenizer, or lfl_jax.load(...,"
            " tokenizer=)."
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    # llama.cpp spells a merge whose result is no token in bytes again, so that it is as if it were
    # not there.
    pairs = [tuple(merge.split(" ")) for merge in merges]
    pairs = [pair for pair in pairs if len(pair) != 2 or "".join(pair) in vocab]
    try:
        tokenizer = Tokenizer(models.BPE(vocab, pairs, ignore_merges=rule in _LLAMA3))
    # the library raises bare Exception, a pair of three parts a TypeError
    except Exception as error:
        raise UserError(f"{path}: its vocabulary and merges do not fit together: {error}") from None
    _RULES[rule](tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gpt2(tokenizer: "tokenizers.Tokenizer") -> None:
    from tokenizers import pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm(tokenizer: "tokenizers.Tokenizer") -> None:
    """GPT-2's rule with every digit apart, as the merges were learned.

    Without that step, runs of spaces or line breaks before a number lose their last one to a token
    of its own.
    """
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])


def _by_pattern(pattern: str, compose: bool = False) -> Callable[["tokenizers.Tokenizer"], None]:
    """Split at what a pattern finds. compose: bring characters to Unicode's form NFC first."""

    def apply(tokenizer: "tokenizers.Tokenizer") -> None:
        from tokenizers import Regex, normalizers, pre_tokenizers

        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        if compose:
            tokenizer.normalizer = normalizers.NFC()

    return apply


# From the tokenizer.json files that Meta and Qwen publish. They differ in how many digits go
# together.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# whole words that are tokens need no merges, and texts begin with BOS
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
# llama.cpp's name of a rule -> what sets up a tokenizer to split text by it
_RULES: dict[str, Callable[["tokenizers.Tokenizer"], None]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    **dict.fromkeys(_LLAMA3, _by_pattern(_PATTERN % r"\p{N}{1,3}")),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _by_pattern(_PATTERN % r"\p{N}", compose=True)),
}


def _add_tokens(tokenizer: "tokenizers.Tokenizer", texts: list[str], special: bool) -> None:
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text in texts])


def _from_hf(
    whole: "tokenizers.Tokenizer",
    continuing: "tokenizers.Tokenizer",
    byte_level: bool,
    **specials: Any,
) -> Tokenizer:
    """A tokenizer of the library: `whole` for texts, `continuing` for what goes on from other text,
    and to decode."""
    show = _byte_level_piece() if byte_level else sentencepiece_text
    prefixed, bos_id = continuing is not whole, specials["bos_id"]
    added = {i: token.content for i, token in whole.get_added_tokens_decoder().items()}

    def encode(text: str) -> list[int]:
        return whole.encode(text, add_special_tokens=False).ids

    def without_prefix(text: str) -> list[int]:
        return continuing.encode(text, add_special_tokens=False).ids

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        return [
            found.ids for found in whole.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def decode(ids: Sequence[int]) -> str:
        text = continuing.decode(list(ids))
        return text.removeprefix(" ") if prefixed and ids and ids[0] == bos_id else text

    def pieces(ids: Sequence[int]) -> list[str]:
        return [added[i] if i in added else show(whole.id_to_token(i) or "") for i in ids]

    # What follows a special token in a text gets the leading space again, as it does in `encode`.
    ids_of = {text: i for i, text in added.items()}
    return Tokenizer(
        encode=encode,
        encode_continuation=encode
        if continuing is whole
        else parsing(ids_of, without_prefix, encode),
        encode_batch=encode_batch,
        decode=decode,
        pieces=pieces,
        vocab_size=1 + max(whole.get_vocab().values()),
        n_base=1 + max(whole.get_vocab(with_added_tokens=False).values(), default=-1),
        bos=None if specials["bos_id"] is None else whole.id_to_token(specials["bos_id"]),
        eos=whole.id_to_token(specials["eos_id"]),
        **specials,
    )


def _without_prefix(tree: dict[str, Any]) -> dict[str, Any]:
    """Copy a tokenizer.json without the steps that put a space before a text, or take it away again
    in decoding."""

    def strip(node: Any) -> Any:
        if isinstance(node, list):
            return [strip(item) for item in node if not _is_prefix_step(item)]
        if not isinstance(node, dict):
            return node
        node = {key: strip(value) for key, value in node.items()}
        if "add_prefix_space" in node:
            node["add_prefix_space"] = False
        if node.get("type") == "Metaspace":
            node["prepend_scheme"] = "never"
        return node

    steps = {
        key: strip(tree[key]) for key in ("normalizer", "pre_tokenizer", "decoder") if key in tree
    }
    return tree | {key: None if _is_prefix_step(step) else step for key, step in steps.items()}


def _is_prefix_step(step: Any) -> bool:
    """Whether a step of a tokenizer.json does no more than put a space before a text, or take one
    away."""
    if not isinstance(step, dict):
        return False
    return step.get("type") == "Prepend" or (
        step.get("type") == "Strip" and step.get("content") == " "
    )


def _byte_level_piece() -> Callable[[str], str]:
    # GPT-2 writes each byte as a printable character: as in Latin-1 where that is one, else from
    # U+0100 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {
        chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in printable)
    }

    def piece(token: str) -> str:
        known = all(char in byte_of for char in token)
        return shown(bytes(byte_of[char] for char in token)) if known else token

    return piece
