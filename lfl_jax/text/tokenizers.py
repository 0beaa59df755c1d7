"""Tokenizers from the files that models come with: GGUF, tokenizer.json, SentencePiece, bytes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lfl_jax.assets import gguf_header
from lfl_jax.errors import UserError
from lfl_jax.text import byte_level_bpe, sentence_pieces
from lfl_jax.text.hf_tokenizers import from_json
from lfl_jax.text.sentence_pieces import from_sentencepiece
from lfl_jax.text.tokenizer import AnyPath, Tokenizer, bytes_text, parsing

__all__ = [
    "Tokenizer",
    "byte_tokenizer",
    "from_folder",
    "from_gguf",
    "from_gguf_header",
    "from_json",
    "from_sentencepiece",
]

# The tokenizer of a GGUF file's metadata, by the value of tokenizer.ggml.model.
GGUF_TOKENIZERS: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
    "gpt2": byte_level_bpe.from_gguf,
    "llama": sentence_pieces.from_gguf,
}
# The special tokens of `byte_tokenizer`, after the 256 bytes.
BYTE_SPECIALS = {"<|pad|>": 256, "<|bos|>": 257, "<|eos|>": 258}


def from_gguf(path: AnyPath) -> Tokenizer:
    """The tokenizer in a GGUF file: byte-level BPE ("gpt2") or SentencePiece ("llama").

    Raises UserError for other models, and for byte-level vocabularies with an unknown splitting
    rule.
    """
    return from_gguf_header(gguf_header.read(path))


def from_gguf_header(metadata: dict[str, Any]) -> Tokenizer:
    """The same from a header that `gguf_header.read` has read."""
    model = gguf_header.field(metadata, "tokenizer.ggml.model", str)
    if model not in GGUF_TOKENIZERS:
        path = metadata["GGUF.path"]
        raise UserError(
            f"{path}: tokenizer of kind {model!r}; supported are 'gpt2' (byte-level BPE) and"
            " 'llama'"
        )
    return GGUF_TOKENIZERS[model](metadata)


def from_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, from tokenizer.json or tokenizer.model."""
    if (folder / "tokenizer.json").is_file():
        return from_json(folder)
    if (folder / "tokenizer.model").is_file():
        return from_sentencepiece(folder / "tokenizer.model")
    raise UserError(f"{folder}: neither tokenizer.json nor tokenizer.model is there")


def byte_tokenizer() -> Tokenizer:
    """One id per UTF-8 byte, then BYTE_SPECIALS: needs no file, for tests and smoke runs."""
    special_texts = {id_: text for text, id_ in BYTE_SPECIALS.items()}

    def to_bytes(text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def piece(i: int) -> str:
        return special_texts[i] if i in special_texts else bytes_text(bytes([i]))

    # A byte-level vocabulary has no leading space: text begins and continues alike.
    encode = parsing(BYTE_SPECIALS, to_bytes, to_bytes)

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        return [encode(text) for text in texts]

    return Tokenizer(
        encode=encode,
        encode_continuation=encode,
        encode_batch=encode_batch,
        decode=decode,
        pieces=lambda ids: [piece(i) for i in ids],
        vocab_size=256 + len(BYTE_SPECIALS),
        bos_id=BYTE_SPECIALS["<|bos|>"],
        eos_id=BYTE_SPECIALS["<|eos|>"],
        pad_id=BYTE_SPECIALS["<|pad|>"],
        add_bos=True,
        bos="<|bos|>",
        eos="<|eos|>",
        chat_template=None,
    )
