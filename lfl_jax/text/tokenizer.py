"""What every tokenizer is, and what several backends need."""

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
# tokens of a prompt that decoding what follows can depend on: a character has at most 4
_CONTEXT = 8
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# token types, the same numbers in GGUF and in SentencePiece
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. Nothing is added to a text; special tokens written in it become their
    one id.

    `encode` is for text that starts a sequence, `encode_continuation` for text that goes on from
    other text: SentencePiece puts a space before the first word of a text, which must not happen to
    a response. For byte-level vocabularies they are the same. A training example is
    `encode(prompt)` and then `encode_continuation(response)`, so that the prompt's ids are those it
    has at evaluation. `encode_batch` is `encode` of many texts. `decode` leaves special tokens out
    and keeps the space that text begins with, as it goes on from other text; only ids that begin
    with BOS are a whole text, without SentencePiece's own first space. `pieces` gives the text of
    each token apart; bytes of a character that is split between tokens show as \\xNN.
    `pad_id` is `eos_id` where the source names none: padding has to be masked by weight, not by id.
    `files` are the tokenizer's files as Hugging Face folders hold them, by name; none for plain
    bytes.
    """

    encode: Callable[[str], list[int]] = field(repr=False)
    encode_continuation: Callable[[str], list[int]] = field(repr=False)
    encode_batch: Callable[[Sequence[str]], list[list[int]]] = field(repr=False)
    decode: Callable[[Sequence[int]], str] = field(repr=False)
    pieces: Callable[[Sequence[int]], list[str]] = field(repr=False)
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int
    add_bos: bool  # whether sequences of this model start with BOS
    bos: str | None
    eos: str
    chat_template: str | None = field(repr=False)  # Jinja source
    files: Callable[[], dict[str, bytes]] = field(repr=False, default=dict)
    n_base: int | None = None  # ids from here on were added to the vocabulary; None: none were

    def decode_continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to a prompt's: what follows it, its first space and split
        characters included."""
        context = list(prompt[-_CONTEXT:])
        # a character that the prompt begins and ids end
        before = self.decode(context).rstrip(_REPLACEMENT)
        both = self.decode([*context, *ids])
        return both[len(before) :] if both.startswith(before) else self.decode(ids)


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


def hf_settings(kind: str, **settings: Any) -> bytes:
    """A tokenizer_config.json for transformers' class `kind`."""
    shown = {name: value for name, value in settings.items() if value is not None}
    return (json.dumps({"tokenizer_class": kind, **shown}, indent=2) + "\n").encode()


def gguf_specials(metadata: dict[str, Any], tokens: list[str], add_bos: bool) -> dict[str, Any]:
    """Read the special tokens' ids and the chat template of a GGUF file: fields of `Tokenizer` by
    name."""
    eos_id = gguf_header.field(metadata, "tokenizer.ggml.eos_token_id", int)
    has_bos = "tokenizer.ggml.bos_token_id" in metadata
    bos_id = gguf_header.field(metadata, "tokenizer.ggml.bos_token_id", int) if has_bos else None
    pad_id = gguf_header.field(metadata, "tokenizer.ggml.padding_token_id", int, eos_id)
    if max(eos_id, pad_id, bos_id or 0) >= len(tokens):
        raise UserError(
            f"{metadata['GGUF.path']}: a special token's id is outside the {len(tokens)} tokens"
        )
    template = metadata.get("tokenizer.chat_template")
    return {
        "bos_id": bos_id,
        "eos_id": eos_id,
        "pad_id": pad_id,
        "add_bos": has_bos
        and gguf_header.field(metadata, "tokenizer.ggml.add_bos_token", bool, add_bos),
        "chat_template": template,
    }


def parsing(
    specials: dict[str, int],
    first: Callable[[str], list[int]],
    rest: Callable[[str], list[int]],
    strips: Mapping[str, tuple[bool, bool]] | None = None,
) -> Callable[[str], list[int]]:
    """Make an encoder that finds special tokens and encodes the text between; a beginning by
    `first`.

    strips: special tokens that take the white space on their left, on their right with them.
    """
    if not specials:
        return first

    def searched(text: str) -> str:
        left, right = (strips or {}).get(text, (False, False))
        return r"\s*" * left + re.escape(text) + r"\s*" * right

    pattern = re.compile(
        "(" + "|".join(searched(text) for text in sorted(specials, key=len, reverse=True)) + ")"
    )

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(pattern.split(text)):
            if i % 2:  # what the pattern found; the others are the text between
                ids.append(specials[part if part in specials else part.strip()])
            elif part:
                ids += (rest if i else first)(part)
        return ids

    return encode


def within(tokenizer: Tokenizer, rows: int, where: str) -> Tokenizer:
    """The tokenizer for an embedding with fewer rows than it has ids, such as one that was not
    resized for padding.

    It is the same until a text contains a token without a row, which is a UserError. `where` names
    the files in it.
    """

    def checked(ids: list[int]) -> list[int]:
        if ids and max(ids) >= rows:
            text = tokenizer.pieces([max(ids)])[0]
            raise UserError(
                f"{where}: a text contains {text!r}, token {max(ids)}, for which the embedding has"
                " no row: it has"
                f" {rows}; leave the token out of the text, or use the model's own tokenizer"
            )
        return ids

    def batch(texts: Sequence[str]) -> list[list[int]]:
        return [checked(ids) for ids in tokenizer.encode_batch(texts)]

    return replace(
        tokenizer,
        encode=lambda text: checked(tokenizer.encode(text)),
        encode_continuation=lambda text: checked(tokenizer.encode_continuation(text)),
        encode_batch=batch,
        vocab_size=rows,
        pad_id=tokenizer.pad_id if tokenizer.pad_id < rows else tokenizer.eos_id,
    )


def shown(raw: bytes) -> str:
    """Write bytes as text, with \\xNN for what is no UTF-8."""
    return raw.decode("utf-8", "backslashreplace")


def sentencepiece_text(token: str) -> str:
    """Write a SentencePiece piece as the text it stands for."""
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return (
        shown(bytes([int(byte[1], 16)]))
        if byte
        else token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ")
    )
