"""Tokenizers run by the sentencepiece library: .model files, and the same vocabularies inside GGUF
files."""

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lfl_jax.assets import gguf_header
from lfl_jax.errors import UserError
from lfl_jax.text.tokenizer import (
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
from lfl_jax.text.tokenizer_files import (
    Added,
    Settings,
    added_tokens,
    chat_template,
    read_settings,
    token_text,
)

# classes of transformers 5 for which legacy is false by default
NOT_LEGACY = ("LlamaTokenizer", "LlamaTokenizerFast")
MODEL = "tokenizer.model"  # what Hugging Face folders call it


def from_sentencepiece(path: AnyPath) -> Tokenizer:
    """Read a SentencePiece model, with the files beside it if it is the tokenizer.model of a
    Hugging Face folder.

    They name special and added tokens, the chat template, and in add_bos_token whether texts begin
    with BOS; without it they do, as Llama-2's. `legacy: false` means no space before text that
    follows a special token. Raises UserError for what is no such model, and for one without EOS.
    """
    proto = _model_proto()
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such SentencePiece model")
    try:
        proto.ParseFromString(Path(path).read_bytes())
    except Exception:  # google.protobuf's DecodeError
        raise UserError(f"{path}: not a SentencePiece model") from None
    folder = Path(path).parent if Path(path).name == MODEL else None
    if folder is None:
        return _from_proto(path, proto, **_specials(Path(path), proto, [], {}), chat_template=None)
    settings = read_settings(folder)
    added = _with_padding(proto, added_tokens(folder, settings), settings)
    return _from_proto(
        path,
        proto,
        added=added,
        legacy=bool(settings.get("legacy", settings.get("tokenizer_class") not in NOT_LEGACY)),
        files=(lambda: hf_files(folder)) if settings else None,
        **_specials(Path(path), proto, added, settings),
        chat_template=chat_template(folder, settings),
    )


def _with_padding(proto: Any, added: list[Added], settings: Settings) -> list[Added]:
    """The added tokens, and the padding token that the settings name where it is in no list, as in
    transformers."""
    pad = token_text(settings, "pad_token")
    known = {piece.piece for piece in proto.pieces} | {token.text for token in added}
    if pad is None or pad in known:
        return added
    free = max([len(proto.pieces), *(token.id + 1 for token in added)])
    return [*added, Added(free, pad, special=True)]


def _specials(path: Path, proto: Any, added: list[Added], settings: Settings) -> dict[str, Any]:
    """BOS, EOS and padding, and whether BOS comes before a text: as the settings name them, else
    the model's own.

    UserError for a token that is not in the vocabulary, and for a missing EOS.
    """
    processor = _processor(path, proto)
    known = {piece.piece: i for i, piece in enumerate(proto.pieces)} | {
        token.text: token.id for token in added
    }
    found: dict[str, Any] = {}
    for name, own in (
        ("bos", processor.bos_id()),
        ("eos", processor.eos_id()),
        ("pad", processor.pad_id()),
    ):
        text = token_text(settings, f"{name}_token")
        if text is not None and text not in known:
            raise UserError(
                f"{path}: special token {text!r} of the files beside it is not in the vocabulary"
            )
        found[f"{name}_id"] = known[text] if text is not None else own if own >= 0 else None
    if found["eos_id"] is None:
        raise UserError(f"{path}: a SentencePiece model without an EOS token")
    if found["pad_id"] is None:
        found["pad_id"] = found["eos_id"]
    add_bos = found["bos_id"] is not None and settings.get("add_bos_token") is not False
    return found | {"add_bos": add_bos}


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
    """A tokenizer of these pieces. legacy: text after a special token gets the leading space again,
    as in llama.cpp."""
    whole, model = _processor(path, proto), proto.SerializeToString()
    prefix = " " * proto.normalizer_spec.add_dummy_prefix
    proto.normalizer_spec.add_dummy_prefix = False
    continuing = _processor(path, proto)
    proto.normalizer_spec.remove_extra_whitespaces = False
    # decodes every space; as an encoder it would not be the model's
    verbatim = _processor(path, proto)
    texts = [piece.piece for piece in proto.pieces]
    control = {
        piece.piece: i for i, piece in enumerate(proto.pieces) if piece.type in (UNKNOWN, CONTROL)
    }
    own = {token.id: token.text for token in added}
    hidden = {
        *control.values(),
        *(token.id for token in added if token.special),
        specials["eos_id"],
    }
    searched = control | {text: i for i, text in own.items()}
    strips = {token.text: (token.left, token.right) for token in added}
    after = whole.encode if legacy else continuing.encode
    encode = parsing(searched, whole.encode, after, strips)

    def decode(ids: Sequence[int]) -> str:
        shown = [i for i in ids if i not in hidden and (i < len(texts) or i in own)]
        runs = [
            list(run) for _, run in itertools.groupby(shown, key=lambda i: i if i in own else None)
        ]
        text = "".join(
            own[run[0]] * len(run) if run[0] in own else verbatim.decode(run) for run in runs
        )
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


def _files(
    model: bytes, piece: Callable[[int], str], specials: dict[str, Any], legacy: bool
) -> dict[str, bytes]:
    """tokenizer.model and tokenizer_config.json, for a model that came without the latter."""
    ids = {f"{name}_token": specials[f"{name}_id"] for name in ("bos", "eos", "pad")}
    named = {name: None if i is None else piece(i) for name, i in ids.items()}
    settings = {
        "add_bos_token": specials["add_bos"],
        "chat_template": specials["chat_template"],
        "legacy": legacy,
    }
    return {
        MODEL: model,
        "tokenizer_config.json": hf_settings("LlamaTokenizer", **named, **settings),
    }


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """Rebuild the SentencePiece model behind a GGUF "llama" vocabulary from its pieces, scores and
    types."""
    tokens = gguf_header.array(metadata, "tokenizer.ggml.tokens", str)
    scores = gguf_header.array(metadata, "tokenizer.ggml.scores", float, len(tokens))
    types = gguf_header.array(metadata, "tokenizer.ggml.token_type", int, len(tokens))
    proto = _model_proto()
    for token, score, type_ in zip(tokens, scores, types, strict=True):
        proto.pieces.add(piece=token, score=score, type=type_)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = gguf_header.field(
        metadata, "tokenizer.ggml.add_space_prefix", bool, True
    )
    proto.normalizer_spec.remove_extra_whitespaces = False
    return _from_proto(
        metadata["GGUF.path"], proto, **gguf_specials(metadata, tokens, add_bos=True)
    )
