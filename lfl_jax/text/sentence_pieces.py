"""Tokenizers run by the sentencepiece library: .model files, and the same vocabularies inside GGUF files."""

import itertools
import os
from collections.abc import Callable, Sequence
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
    hf_files,
    hf_settings,
    parsing,
    sentencepiece_text,
)
from lfl_jax.text.tokenizer_files import Added, Settings, added_tokens, chat_template, read_settings, token_text

MODEL = "tokenizer.model"  # what Hugging Face folders call it


def from_sentencepiece(path: AnyPath) -> Tokenizer:
    """Read a SentencePiece model, with the files beside it if it is the tokenizer.model of a Hugging Face folder.

    They name special and added tokens, the chat template, and in add_bos_token whether texts begin with BOS; without
    it they do, as Llama-2's. `legacy: false` means no space before text that follows a special token.
    Raises UserError for what is no such model, and for one without EOS.
    """
    proto = _model_proto()
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such SentencePiece model")
    try:
        proto.ParseFromString(Path(path).read_bytes())
    except Exception:  # google.protobuf's DecodeError
        raise UserError(f"{path}: not a SentencePiece model") from None
    folder = Path(path).parent if Path(path).name == MODEL else None
    settings = {} if folder is None else read_settings(folder)
    added = [] if folder is None else added_tokens(folder, settings)
    pieces = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    ids = _special_ids(Path(path), proto, pieces | {token.text: token.id for token in added}, settings)
    if ids["pad_id"] is None:  # it is named, and in no list: transformers adds it after the others
        pad = Added(
            max([len(pieces), *(token.id + 1 for token in added)]), str(token_text(settings, "pad_token")), True
        )
        added, ids["pad_id"] = [*added, pad], pad.id
    return _from_proto(
        path,
        proto,
        added=added,
        legacy=settings.get("legacy", True) is not False,
        files=None if folder is None or not settings else lambda: hf_files(folder),
        **ids,
        add_bos=ids["bos_id"] is not None and settings.get("add_bos_token") is not False,
        chat_template=None if folder is None else chat_template(folder, settings),
    )


def _special_ids(path: Path, proto: Any, known: dict[str, int], settings: Settings) -> dict[str, int | None]:
    """Ids of BOS, EOS and padding: of the tokens that the settings name, else the model's own.

    BOS may be None; padding is None where it is named and not known. UserError for an unknown or missing EOS.
    """
    processor = _processor(path, proto)
    found: dict[str, int | None] = {}
    for name, own in (("bos", processor.bos_id()), ("eos", processor.eos_id()), ("pad", processor.pad_id())):
        text = token_text(settings, f"{name}_token")
        found[f"{name}_id"] = known.get(text) if text is not None else own if own >= 0 else None
        if text is not None and text not in known and name != "pad":
            raise UserError(f"{path}: special token {text!r} of the files beside it is not in the vocabulary")
    if found["eos_id"] is None:
        raise UserError(f"{path}: a SentencePiece model without an EOS token")
    if found["pad_id"] is None and token_text(settings, "pad_token") is None:
        found["pad_id"] = found["eos_id"]
    return found


def _model_proto() -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto()


def _processor(path: AnyPath, proto: Any) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=proto.SerializeToString())
    except RuntimeError as error:
        raise UserError(f"{path}: not a SentencePiece model: {error}") from None


def _from_proto(
    path: AnyPath,
    proto: Any,
    *,
    added: Sequence[Added] = (),
    legacy: bool = True,
    files: Callable[[], dict[str, bytes]] | None = None,
    **specials: Any,
) -> Tokenizer:
    """A tokenizer of these pieces. legacy: text after a special token gets the leading space again, as in llama.cpp."""
    whole, model = _processor(path, proto), proto.SerializeToString()
    prefix = " " * proto.normalizer_spec.add_dummy_prefix
    proto.normalizer_spec.add_dummy_prefix = False
    continuing = _processor(path, proto)
    proto.normalizer_spec.remove_extra_whitespaces = False
    verbatim = _processor(path, proto)  # decodes every space; as an encoder it would not be the model's
    texts = [piece.piece for piece in proto.pieces]
    control = {piece.piece: i for i, piece in enumerate(proto.pieces) if piece.type in (UNKNOWN, CONTROL)}
    own = {token.id: token.text for token in added}
    hidden = {*control.values(), *(token.id for token in added if token.special), specials["eos_id"]}
    searched = control | {text: i for i, text in own.items()}
    strips = {token.text: (token.left, token.right) for token in added}
    after = whole.encode if legacy else continuing.encode
    encode = parsing(searched, whole.encode, after, strips)

    def decode(ids: Sequence[int]) -> str:
        shown = [i for i in ids if i not in hidden and (i < len(texts) or i in own)]
        runs = [list(run) for _, run in itertools.groupby(shown, key=lambda i: i if i in own else None)]
        text = "".join(own[run[0]] * len(run) if run[0] in own else verbatim.decode(run) for run in runs)
        return text.removeprefix(prefix) if ids and ids[0] == specials["bos_id"] else text

    def piece(i: int) -> str:
        return own[i] if i in own else sentencepiece_text(texts[i]) if i < len(texts) else ""

    return Tokenizer(
        encode=encode,
        encode_continuation=parsing(searched, continuing.encode, after, strips),
        encode_batch=lambda texts: [encode(text) for text in texts],
        decode=decode,
        pieces=lambda ids: [piece(i) for i in ids],
        vocab_size=1 + max([len(texts) - 1, *own]),
        n_base=len(texts),
        bos=None if specials["bos_id"] is None else piece(specials["bos_id"]),
        eos=piece(specials["eos_id"]),
        files=files or (lambda: _files(model, piece, specials, legacy)),
        **specials,
    )


def _files(model: bytes, piece: Callable[[int], str], specials: dict[str, Any], legacy: bool) -> dict[str, bytes]:
    """tokenizer.model and tokenizer_config.json, for a model that came without the latter."""
    ids = {f"{name}_token": specials[f"{name}_id"] for name in ("bos", "eos", "pad")}
    named = {name: None if i is None else piece(i) for name, i in ids.items()}
    settings = {"add_bos_token": specials["add_bos"], "chat_template": specials["chat_template"], "legacy": legacy}
    return {MODEL: model, "tokenizer_config.json": hf_settings("LlamaTokenizer", **named, **settings)}


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
