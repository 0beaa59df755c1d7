"""Tokenizers from the files that models come with: GGUF, tokenizer.json, SentencePiece; or plain
bytes."""

from collections.abc import Sequence
from pathlib import Path

from lfl_jax.assets import gguf_header
from lfl_jax.errors import UserError
from lfl_jax.text import hf_tokenizers, sentence_pieces
from lfl_jax.text.hf_tokenizers import from_json
from lfl_jax.text.sentence_pieces import from_sentencepiece
from lfl_jax.text.tokenizer import AnyPath, Tokenizer, parsing, shown

__all__ = [
    "Tokenizer",
    "byte_tokenizer",
    "from_folder",
    "from_gguf",
    "from_json",
    "from_sentencepiece",
]


def from_gguf(path: AnyPath) -> Tokenizer:
    """Build the tokenizer a GGUF file carries: byte-level BPE ("gpt2") or SentencePiece ("llama").

    Raises UserError for other kinds and for byte-level vocabularies whose splitting rule is not
    known here.
    """
    metadata = gguf_header.read(path)
    kind = gguf_header.field(metadata, "tokenizer.ggml.model", str)
    if kind == "gpt2":
        return hf_tokenizers.from_gguf(metadata)
    if kind == "llama":
        return sentence_pieces.from_gguf(metadata)
    raise UserError(
        f"{path}: tokenizer of kind {kind!r}; supported are 'gpt2' (byte-level BPE) and 'llama'"
    )


def from_folder(folder: Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder: tokenizer.json, or a SentencePiece
    tokenizer.model."""
    if (folder / "tokenizer.json").is_file():
        return from_json(folder)
    if (folder / "tokenizer.model").is_file():
        return from_sentencepiece(folder / "tokenizer.model")
    raise UserError(f"{folder}: neither tokenizer.json nor tokenizer.model is there")


def byte_tokenizer() -> Tokenizer:
    """One id per UTF-8 byte, then pad 256, bos 257, eos 258: needs no file, for tests and smoke
    runs."""
    specials = {"<|pad|>": 256, "<|bos|>": 257, "<|eos|>": 258}
    names = {id_: text for text, id_ in specials.items()}

    def to_bytes(text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def pieces(ids: Sequence[int]) -> list[str]:
        return [names[i] if i in names else shown(bytes([i])) for i in ids]

    encode = parsing(specials, to_bytes, to_bytes)
    return Tokenizer(
        encode=encode,
        encode_continuation=encode,
        encode_batch=lambda texts: [encode(text) for text in texts],
        decode=decode,
        pieces=pieces,
        vocab_size=259,
        bos_id=257,
        eos_id=258,
        pad_id=256,
        add_bos=True,
        bos="<|bos|>",
        eos="<|eos|>",
        chat_template=None,
    )
