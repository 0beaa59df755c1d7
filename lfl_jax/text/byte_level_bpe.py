"""The byte-level BPE ("gpt2") vocabularies inside GGUF files, run by the tokenizers library.

A GGUF file has tokens and merges, but only the name of the rule that splits a text before them.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lfl_jax.assets import gguf_header
from lfl_jax.errors import UserError
from lfl_jax.text.hf_tokenizers import Encoders, add_tokens, from_library
from lfl_jax.text.tokenizer import (
    CONTROL,
    USER_DEFINED,
    Specials,
    Tokenizer,
    gguf_specials,
    hf_settings,
)

if TYPE_CHECKING:
    import tokenizers


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """The byte-level BPE tokenizer of a GGUF file."""
    tokens = gguf_header.array(metadata, "tokenizer.ggml.tokens", str)
    types = gguf_header.array(metadata, "tokenizer.ggml.token_type", int, len(tokens))
    merges = gguf_header.array(metadata, "tokenizer.ggml.merges", str)
    rule = gguf_header.field(metadata, "tokenizer.ggml.pre", str)

    tokenizer = _byte_level_bpe(metadata["GGUF.path"], tokens, merges, rule)
    for added_type in (CONTROL, USER_DEFINED):
        texts = [token for token, type_ in zip(tokens, types, strict=True) if type_ == added_type]
        add_tokens(tokenizer, texts, special=added_type == CONTROL)

    specials = gguf_specials(metadata, tokens, add_bos=rule in LLAMA3_RULES)
    files = partial(_hf_files, tokenizer, tokens, specials)
    return from_library(Encoders(tokenizer, tokenizer), specials, is_byte_level=True, files=files)


def _hf_files(
    tokenizer: "tokenizers.Tokenizer", tokens: list[str], specials: Specials
) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json; BOS goes before a text where the model wants it."""
    from tokenizers import processors

    bos = None if specials.bos_id is None else tokens[specials.bos_id]
    if specials.add_bos:
        special = [(bos, specials.bos_id)]
        single, pair = f"{bos} $A", f"{bos} $A $B"
        tokenizer.post_processor = processors.TemplateProcessing(single, pair, special)
    config = hf_settings(
        "PreTrainedTokenizerFast",
        clean_up_tokenization_spaces=False,
        bos_token=bos,
        eos_token=tokens[specials.eos_id],
        pad_token=tokens[specials.pad_id],
        chat_template=specials.chat_template,
    )
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": config,
    }


def _byte_level_bpe(
    path: str, tokens: list[str], merges: list[str], rule: str
) -> "tokenizers.Tokenizer":
    """UserError for an unknown rule, and for merges that the vocabulary does not fit."""
    from tokenizers import Tokenizer, decoders, models

    if rule not in SPLITTING_RULES:
        raise UserError(
            f"{path}: byte-level BPE split by rule {rule!r}; known are"
            f" {', '.join(SPLITTING_RULES)}. Name a folder with its tokenizer.json:"
            " config.model.tokenizer, or lfl_jax.load(..., tokenizer=)."
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    # llama.cpp spells a merge whose result is no token in bytes again: as if it did not exist.
    pairs = [tuple(merge.split(" ")) for merge in merges]
    pairs = [pair for pair in pairs if len(pair) != 2 or "".join(pair) in vocab]
    try:
        tokenizer = Tokenizer(models.BPE(vocab, pairs, ignore_merges=rule in LLAMA3_RULES))
    # The library raises bare Exception, and TypeError for a pair of three parts.
    except Exception as error:
        raise UserError(f"{path}: its vocabulary and merges do not fit together: {error}") from None
    SPLITTING_RULES[rule](tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gpt2(tokenizer: "tokenizers.Tokenizer") -> None:
    from tokenizers import pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm(tokenizer: "tokenizers.Tokenizer") -> None:
    """GPT-2's rule after every digit is split off, as the merges were learned.

    Without that step, runs of spaces or line breaks before a number lose their last one to a token
    of its own.
    """
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])


def _by_pattern(pattern: str, compose: bool = False) -> Callable[["tokenizers.Tokenizer"], None]:
    """Split at the matches of a pattern. compose: bring characters to Unicode's NFC first."""

    def apply(tokenizer: "tokenizers.Tokenizer") -> None:
        from tokenizers import Regex, normalizers, pre_tokenizers

        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        if compose:
            tokenizer.normalizer = normalizers.NFC()

    return apply


# From the tokenizer.json files that Meta and Qwen publish. They differ in how many digits are one
# match.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Words that are tokens need no merges, and texts begin with BOS.
LLAMA3_RULES = ("llama-bpe", "llama3", "llama-v3")
QWEN2_RULES = ("qwen2", "deepseek-r1-qwen")
# llama.cpp's name of a rule: the function that sets up a tokenizer to split text by it.
SPLITTING_RULES: dict[str, Callable[["tokenizers.Tokenizer"], None]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    **dict.fromkeys(LLAMA3_RULES, _by_pattern(_PATTERN % r"\p{N}{1,3}")),
    **dict.fromkeys(QWEN2_RULES, _by_pattern(_PATTERN % r"\p{N}", compose=True)),
}
