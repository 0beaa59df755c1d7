"""Tokenizers run by the sentencepiece library: .model files, and "llama" vocabularies in GGUF."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfl_jax.assets import gguf_header
from lfl_jax.errors import UserError
from lfl_jax.text.native import refusing
from lfl_jax.text.tokenizer import (
    CONTROL,
    UNKNOWN,
    AnyPath,
    Specials,
    Tokenizer,
    gguf_specials,
    hf_files,
    hf_settings,
    parsing,
    sentencepiece_text,
)
from lfl_jax.text.tokenizer_files import (
    AddedToken,
    Settings,
    added_tokens,
    chat_template,
    read_settings,
    token_text,
)

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

# Classes of transformers 5 for which legacy is false by default.
NOT_LEGACY = ("LlamaTokenizer", "LlamaTokenizerFast")
MODEL_FILE = "tokenizer.model"  # of a Hugging Face folder


@dataclass(frozen=True)
class Vocabulary:
    """The texts of all ids, and which of them are special.

    pieces: of the model, in the order of their ids. added: further tokens by id. hidden: ids that
    decoding leaves out. searched: tokens that are found as a unit in any text, with their ids.
    """

    pieces: tuple[str, ...]
    added: dict[int, str]
    hidden: frozenset[int]
    searched: dict[str, int]

    @classmethod
    def of(
        cls, proto: "ModelProto", added: Sequence[AddedToken], specials: Specials
    ) -> "Vocabulary":
        """The model's pieces with the added tokens."""
        # Control tokens such as <s> are found in a text and never written; user-defined ones and
        # added tokens are both found and written.
        pieces = tuple(piece.piece for piece in proto.pieces)
        is_control = [piece.type in (UNKNOWN, CONTROL) for piece in proto.pieces]
        control = {pieces[i]: i for i, control in enumerate(is_control) if control}
        added_special = [token.id for token in added if token.special]
        by_id = {token.id: token.text for token in added}
        return cls(
            pieces=pieces,
            added=by_id,
            hidden=frozenset([*control.values(), *added_special, specials.eos_id]),
            searched=control | {text: i for i, text in by_id.items()},
        )

    def text(self, i: int) -> str:
        """The text of an id; "" for one that has none."""
        if i in self.added:
            return self.added[i]
        return sentencepiece_text(self.pieces[i]) if i < len(self.pieces) else ""

    def is_visible(self, i: int) -> bool:
        """True for an id that decoding writes."""
        return i not in self.hidden and (i < len(self.pieces) or i in self.added)


def from_sentencepiece(path: AnyPath) -> Tokenizer:
    """Read a SentencePiece model, with the files beside it if it is a folder's tokenizer.model.

    These name special and added tokens, the chat template, and in add_bos_token whether texts begin
    with BOS; by default they do, as Llama-2's. `legacy: false` means no space before text that
    follows a special token. Raises UserError for a file that is no such model or has no EOS.
    """
    proto = _model_proto()
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such SentencePiece model")
    try:
        proto.ParseFromString(Path(path).read_bytes())
    except Exception:  # google.protobuf's DecodeError
        raise UserError(f"{path}: not a SentencePiece model") from None

    folder = Path(path).parent
    if Path(path).name != MODEL_FILE:
        return _from_proto(path, proto, _specials(Path(path), proto, [], {}, None))
    settings = read_settings(folder)
    added = _with_padding(proto, added_tokens(folder, settings), settings)
    template = chat_template(folder, settings)
    return _from_proto(
        path,
        proto,
        _specials(Path(path), proto, added, settings, template),
        added=added,
        legacy=bool(settings.get("legacy", settings.get("tokenizer_class") not in NOT_LEGACY)),
        files=(lambda: hf_files(folder)) if settings else None,
    )


def _with_padding(
    proto: "ModelProto", added: list[AddedToken], settings: Settings
) -> list[AddedToken]:
    """The added tokens, and a padding token that is in no list, as in transformers."""
    pad = token_text(settings, "pad_token")
    known = {piece.piece for piece in proto.pieces}
    known |= {token.text for token in added}
    if pad is None or pad in known:
        return added
    next_id = max([len(proto.pieces), *(token.id + 1 for token in added)])
    return [*added, AddedToken(next_id, pad, special=True)]


def _specials(
    path: Path,
    proto: "ModelProto",
    added: list[AddedToken],
    settings: Settings,
    template: str | None,
) -> Specials:
    """The special tokens that the settings name, else the model's own.

    Raises UserError for a token that is not in the vocabulary, and for a missing EOS.
    """
    processor = _processor(path, proto)
    known = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    known |= {token.text: token.id for token in added}

    def special_id(name: str, model_id: int) -> int | None:
        text = token_text(settings, f"{name}_token")
        if text is None:
            return model_id if model_id >= 0 else None
        if text not in known:
            raise UserError(
                f"{path}: special token {text!r} of the files beside it is not in the vocabulary"
            )
        return known[text]

    bos_id = special_id("bos", processor.bos_id())
    eos_id = special_id("eos", processor.eos_id())
    pad_id = special_id("pad", processor.pad_id())
    if eos_id is None:
        raise UserError(f"{path}: a SentencePiece model without an EOS token")
    return Specials(
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=eos_id if pad_id is None else pad_id,
        add_bos=bos_id is not None and settings.get("add_bos_token") is not False,
        chat_template=template,
    )


def _model_proto() -> "ModelProto":
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto()


def _processor(path: AnyPath, proto: "ModelProto") -> "SentencePieceProcessor":
    from sentencepiece import SentencePieceProcessor

    # Its own errors may quote bytes that are no text, and its warnings go before them.
    with refusing(f"{path}: not a SentencePiece model"):
        return SentencePieceProcessor(model_proto=proto.SerializeToString())


def _from_proto(
    path: AnyPath,
    proto: "ModelProto",
    specials: Specials,
    *,
    added: Sequence[AddedToken] = (),
    legacy: bool = True,
    files: Callable[[], dict[str, bytes]] | None = None,
) -> Tokenizer:
    """A tokenizer of these pieces.

    legacy: text after a special token gets the leading space again, as in llama.cpp.
    """
    vocabulary, model = Vocabulary.of(proto, added, specials), proto.SerializeToString()
    prefix = " " * proto.normalizer_spec.add_dummy_prefix

    # Three processors of one model: with its leading space, without, and one that keeps every
    # space. The last one decodes; as an encoder it would not be the model's.
    beginning = _processor(path, proto)
    proto.normalizer_spec.add_dummy_prefix = False
    continuing = _processor(path, proto)
    proto.normalizer_spec.remove_extra_whitespaces = False
    decode_run = _decoder(vocabulary, _processor(path, proto))

    def decode(ids: Sequence[int]) -> str:
        text = decode_run(ids)
        return text.removeprefix(prefix) if ids and ids[0] == specials.bos_id else text

    strips = {token.text: (token.left, token.right) for token in added}
    after = beginning.encode if legacy else continuing.encode
    encode = parsing(vocabulary.searched, beginning.encode, after, strips)

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        return [encode(text) for text in texts]

    return Tokenizer(
        encode=encode,
        encode_continuation=parsing(vocabulary.searched, continuing.encode, after, strips),
        encode_batch=encode_batch,
        decode=decode,
        pieces=lambda ids: [vocabulary.text(i) for i in ids],
        vocab_size=1 + max([len(vocabulary.pieces) - 1, *vocabulary.added]),
        n_base=len(vocabulary.pieces),
        bos=None if specials.bos_id is None else vocabulary.text(specials.bos_id),
        eos=vocabulary.text(specials.eos_id),
        files=files or (lambda: _hf_files(model, vocabulary, specials, legacy)),
        **dataclasses.asdict(specials),
    )


def _decoder(
    vocabulary: Vocabulary, processor: "SentencePieceProcessor"
) -> Callable[[Sequence[int]], str]:
    """A decoder of visible ids; the processor knows no added tokens: they are written as is."""

    def decode(ids: Sequence[int]) -> str:
        visible = filter(vocabulary.is_visible, ids)
        texts = []
        # A run of the model's ids is decoded together: bytes of one character are several ids.
        for added_id, run in itertools.groupby(
            visible, key=lambda i: i if i in vocabulary.added else None
        ):
            if added_id is None:
                texts.append(processor.decode(list(run)))
            else:
                texts += [vocabulary.added[i] for i in run]
        return "".join(texts)

    return decode


def _hf_files(
    model: bytes, vocabulary: Vocabulary, specials: Specials, legacy: bool
) -> dict[str, bytes]:
    """tokenizer.model and tokenizer_config.json, for a model that came without the latter."""
    config = hf_settings(
        "LlamaTokenizer",
        bos_token=None if specials.bos_id is None else vocabulary.text(specials.bos_id),
        eos_token=vocabulary.text(specials.eos_id),
        pad_token=vocabulary.text(specials.pad_id),
        add_bos_token=specials.add_bos,
        chat_template=specials.chat_template,
        legacy=legacy,
    )
    return {MODEL_FILE: model, "tokenizer_config.json": config}


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """The SentencePiece model behind a GGUF "llama" vocabulary: its pieces, scores and types."""
    tokens = gguf_header.array(metadata, "tokenizer.ggml.tokens", str)
    scores = gguf_header.array(metadata, "tokenizer.ggml.scores", float, len(tokens))
    types = gguf_header.array(metadata, "tokenizer.ggml.token_type", int, len(tokens))

    proto = _model_proto()
    known = proto.pieces.add().Type.values()
    proto.ClearField("pieces")
    for token, score, type_ in zip(tokens, scores, types, strict=True):
        if type_ not in known:
            raise UserError(f"{metadata['GGUF.path']}: token {token!r} is of unknown type {type_}")
        proto.pieces.add(piece=token, score=score, type=type_)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True

    # GGUF has no normalisation but the leading space.
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = gguf_header.field(
        metadata, "tokenizer.ggml.add_space_prefix", bool, True
    )
    proto.normalizer_spec.remove_extra_whitespaces = False
    specials = gguf_specials(metadata, tokens, add_bos=True)
    return _from_proto(metadata["GGUF.path"], proto, specials)
