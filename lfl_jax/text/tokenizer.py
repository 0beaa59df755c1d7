"""The Tokenizer of every backend, and what several backends share."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lfl_jax.assets import gguf_header
from lfl_jax.errors import UserError

AnyPath = str | os.PathLike
# Last tokens of a prompt that the text after it can depend on: a character has up to 4 bytes, and
# with them up to 4 tokens.
_CONTEXT = 8
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Token types, the same numbers in GGUF and in SentencePiece.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. Nothing is added to a text; a special token written in it is one id.

    A training example is `encode(prompt)` and then `encode_continuation(response)`, so that the
    prompt has the same ids as in evaluation.
    """

    # Text that begins a sequence. SentencePiece puts a space before the first word of it.
    encode: Callable[[str], list[int]] = field(repr=False)
    # Text that follows other text, such as a response: without that space. For byte-level
    # vocabularies it is `encode`.
    encode_continuation: Callable[[str], list[int]] = field(repr=False)
    # `encode` of many texts.
    encode_batch: Callable[[Sequence[str]], list[list[int]]] = field(repr=False)
    # Special tokens are left out. Ids that begin with BOS are a complete text, without
    # SentencePiece's own first space; other ids continue a text and keep it.
    decode: Callable[[Sequence[int]], str] = field(repr=False)
    # The text of every token; bytes of a character that is split between tokens are \xNN.
    pieces: Callable[[Sequence[int]], list[str]] = field(repr=False)
    vocab_size: int
    bos_id: int | None
    eos_id: int
    # eos_id where the files name none: padding has to be masked by weight, not by id.
    pad_id: int
    add_bos: bool  # sequences of this model start with BOS
    bos: str | None
    eos: str
    chat_template: str | None = field(repr=False)  # Jinja source
    # The files of a Hugging Face folder, by name; none for plain bytes.
    files: Callable[[], dict[str, bytes]] = field(repr=False, default=dict)
    n_base: int | None = None  # ids from here on were added to the vocabulary; None: none were

    def decode_continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to a prompt's, its first space and split characters included."""
        context = list(prompt[-_CONTEXT:])
        # A character may begin in the prompt and end in ids: alone, its first half decodes to a
        # replacement character.
        before = self.decode(context).rstrip(_REPLACEMENT)
        both = self.decode([*context, *ids])
        return both[len(before) :] if both.startswith(before) else self.decode(ids)


@dataclass(frozen=True)
class Specials:
    """The special tokens of a tokenizer's files, and its chat template: fields of `Tokenizer`."""

    bos_id: int | None
    eos_id: int
    pad_id: int
    add_bos: bool
    chat_template: str | None


HF_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def hf_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files of a Hugging Face folder, by name."""
    return {name: (folder / name).read_bytes() for name in HF_FILES if (folder / name).is_file()}


def hf_settings(tokenizer_class: str, **settings: Any) -> bytes:
    """A tokenizer_config.json for a class of transformers; settings that are None are left out."""
    present = {name: value for name, value in settings.items() if value is not None}
    return (json.dumps({"tokenizer_class": tokenizer_class, **present}, indent=2) + "\n").encode()


def gguf_specials(metadata: dict[str, Any], tokens: list[str], add_bos: bool) -> Specials:
    """The special tokens and the chat template of a GGUF file.

    add_bos: of a file that does not say it.
    """
    eos_id = gguf_header.field(metadata, "tokenizer.ggml.eos_token_id", int)
    has_bos = "tokenizer.ggml.bos_token_id" in metadata
    bos_id = gguf_header.field(metadata, "tokenizer.ggml.bos_token_id", int) if has_bos else None
    pad_id = gguf_header.field(metadata, "tokenizer.ggml.padding_token_id", int, eos_id)
    if max(eos_id, pad_id, bos_id or 0) >= len(tokens):
        raise UserError(
            f"{metadata['GGUF.path']}: a special token's id is outside the {len(tokens)} tokens"
        )
    adds = has_bos and gguf_header.field(metadata, "tokenizer.ggml.add_bos_token", bool, add_bos)
    template = metadata.get("tokenizer.chat_template")
    return Specials(bos_id, eos_id, pad_id, add_bos=adds, chat_template=template)


def parsing(
    specials: dict[str, int],
    first: Callable[[str], list[int]],
    following: Callable[[str], list[int]],
    strips: Mapping[str, tuple[bool, bool]] | None = None,
) -> Callable[[str], list[int]]:
    """An encoder that finds special tokens and encodes the text between them.

    first: encodes text at the beginning; following: text after a special token. strips: special
    tokens that take the white space on their left and right with them.
    """
    if not specials:
        return first

    def regex(text: str) -> str:
        left, right = (strips or {}).get(text, (False, False))
        return r"\s*" * left + re.escape(text) + r"\s*" * right

    # Longest first: one special token may be the beginning of another.
    longest_first = sorted(specials, key=len, reverse=True)
    pattern = re.compile("(" + "|".join(map(regex, longest_first)) + ")")

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(pattern.split(text)):
            if i % 2:  # re.split puts the matches at odd positions
                ids.append(specials[part if part in specials else part.strip()])
            elif part:
                ids += (following if i else first)(part)
        return ids

    return encode


def within(tokenizer: Tokenizer, rows: int, where: str) -> Tokenizer:
    """The tokenizer for an embedding of fewer rows than ids, as one not resized for padding.

    Text with a token that has no row is a UserError, in which `where` names the files.
    """

    def checked(ids: list[int]) -> list[int]:
        if ids and max(ids) >= rows:
            text = tokenizer.pieces([max(ids)])[0]
            raise UserError(
                f"{where}: a text contains {text!r}, token {max(ids)}, for which the embedding has"
                f" no row: it has {rows}; leave the token out of the text, or use the model's own"
                " tokenizer"
            )
        return ids

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        return [checked(ids) for ids in tokenizer.encode_batch(texts)]

    return replace(
        tokenizer,
        encode=lambda text: checked(tokenizer.encode(text)),
        encode_continuation=lambda text: checked(tokenizer.encode_continuation(text)),
        encode_batch=encode_batch,
        vocab_size=rows,
        pad_id=tokenizer.pad_id if tokenizer.pad_id < rows else tokenizer.eos_id,
    )


def bytes_text(raw: bytes) -> str:
    """Bytes as text, with \\xNN for what is no UTF-8."""
    return raw.decode("utf-8", "backslashreplace")


def sentencepiece_text(token: str) -> str:
    """The text of a SentencePiece piece."""
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    if byte:
        return bytes_text(bytes([int(byte[1], 16)]))
    return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ")
