"""Tokenizers run by the sentencepiece library: .model files, and the same vocabularies inside GGUF files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.text import gguf_header
from lfl_jax.text.base import (
    CONTROL,
    UNKNOWN,
    AnyPath,
    Tokenizer,
    gguf_specials,
    hf_settings,
    parsing,
    sentencepiece_text,
)


def from_sentencepiece(path: AnyPath) -> Tokenizer:
    """Read a SentencePiece model of Llama-2's kind, whose sequences start with BOS."""
    proto = _model_proto()
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such SentencePiece model")
    try:
        proto.ParseFromString(Path(path).read_bytes())
    except Exception:  # google.protobuf's DecodeError
        raise UserError(f"{path}: not a SentencePiece model") from None
    processor = _processor(path, proto)
    bos_id, eos_id, pad_id = processor.bos_id(), processor.eos_id(), processor.pad_id()
    if eos_id < 0:
        raise UserError(f"{path}: a SentencePiece model without an EOS token")
    return _from_proto(
        path,
        proto,
        bos_id=bos_id if bos_id >= 0 else None,
        eos_id=eos_id,
        pad_id=pad_id if pad_id >= 0 else eos_id,
        add_bos=bos_id >= 0,
        chat_template=None,
    )


def _model_proto() -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto()


def _processor(path: AnyPath, proto: Any) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=proto.SerializeToString())
    except RuntimeError as error:
        raise UserError(f"{path}: not a SentencePiece model: {error}") from None


def _from_proto(path: AnyPath, proto: Any, **specials: Any) -> Tokenizer:
    whole, model = _processor(path, proto), proto.SerializeToString()
    proto.normalizer_spec.add_dummy_prefix = False
    continuing = _processor(path, proto)
    texts = [piece.piece for piece in proto.pieces]
    control = {piece.piece: i for i, piece in enumerate(proto.pieces) if piece.type in (UNKNOWN, CONTROL)}
    hidden = set(control.values())
    # As in llama.cpp and Llama-2's tokenizer.json, text after a special token gets the leading space again.
    encode = parsing(control, whole.encode, whole.encode)

    def decode(ids: Sequence[int]) -> str:
        return whole.decode([i for i in ids if i not in hidden and i < len(texts)])

    def pieces(ids: Sequence[int]) -> list[str]:
        return ["" if i >= len(texts) else sentencepiece_text(texts[i]) for i in ids]

    def files() -> dict[str, bytes]:
        names = {f"{x}_token": specials[f"{x}_id"] for x in ("bos", "eos", "pad")}
        named = {name: None if i is None else texts[i] for name, i in names.items()}
        settings = {"add_bos_token": specials["add_bos"], "chat_template": specials["chat_template"], "legacy": False}
        return {"tokenizer.model": model, "tokenizer_config.json": hf_settings("LlamaTokenizer", **named, **settings)}

    return Tokenizer(
        encode=encode,
        encode_continuation=parsing(control, continuing.encode, whole.encode),
        encode_batch=lambda texts: [encode(text) for text in texts],
        decode=decode,
        pieces=pieces,
        vocab_size=len(texts),
        bos=None if specials["bos_id"] is None else texts[specials["bos_id"]],
        eos=texts[specials["eos_id"]],
        files=files,
        **specials,
    )


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """Rebuild the SentencePiece model behind a GGUF "llama" vocabulary from its pieces, scores and types."""
    tokens = gguf_header.array(metadata, "tokenizer.ggml.tokens", str)
    scores = gguf_header.array(metadata, "tokenizer.ggml.scores", float, len(tokens))
    types = gguf_header.array(metadata, "tokenizer.ggml.token_type", int, len(tokens))
    proto = _model_proto()
    for token, score, type_ in zip(tokens, scores, types, strict=True):
        proto.pieces.add(piece=token, score=score, type=type_)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = gguf_header.field(metadata, "tokenizer.ggml.add_space_prefix", bool, True)
    proto.normalizer_spec.remove_extra_whitespaces = False
    return _from_proto(metadata["GGUF.path"], proto, **gguf_specials(metadata, tokens, add_bos=True))
