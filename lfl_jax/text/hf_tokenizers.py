"""Tokenizers run by the tokenizers library: tokenizer.json files of any kind."""

import base64
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfl_jax.core.files import read_json_object
from lfl_jax.errors import UserError
from lfl_jax.text.native import refusing, refusing_panics
from lfl_jax.text.tokenizer import (
    AnyPath,
    Specials,
    Tokenizer,
    bytes_text,
    hf_files,
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
    import tokenizers

# Steps of a tokenizer.json that may put a space before a text, or take it away in decoding.
PREFIX_STEPS = ("normalizer", "pre_tokenizer", "decoder")
# The last one is for regexes that backtrack.
TRIED = ("a", "Hello,  World 12\n", "\u00e9\u202e\x00\U0001f600", "a" * 40 + "b")
Json = dict | list | str | int | float | bool | None


@dataclass(frozen=True)
class Encoders:
    """The library's tokenizer for text that begins a sequence, and for text that continues one.

    They are one object where no leading space tells them apart.
    """

    beginning: "tokenizers.Tokenizer"
    continuing: "tokenizers.Tokenizer"

    @property
    def both(self) -> tuple["tokenizers.Tokenizer", "tokenizers.Tokenizer"]:
        """The two, to apply a setting to each."""
        return self.beginning, self.continuing


def from_json(path: AnyPath) -> Tokenizer:
    """Read a Hugging Face tokenizer.json, given it or its directory.

    EOS, padding, further added tokens and the chat template come from the files beside it
    (`tokenizer_files`).
    """
    file = Path(path) / "tokenizer.json" if os.path.isdir(path) else Path(path)
    tree, settings = read_json_object(file), read_settings(file.parent)
    encoders = _encoders(file, tree, added_tokens(file.parent, settings))
    specials = _specials(file, encoders, settings)
    is_byte_level = '"ByteLevel"' in json.dumps(tree.get("decoder"))
    return from_library(encoders, specials, is_byte_level, lambda: hf_files(file.parent))


def _specials(file: Path, encoders: Encoders, settings: Settings) -> Specials:
    """The special tokens that the settings name; UserError for a missing EOS or an unknown token.

    BOS is what the tokenizer's own post-processor puts before a text, and add_bos_token is not
    read: so does transformers 5, and so are the scores that others publish.
    """
    bos, eos = token_text(settings, "bos_token"), token_text(settings, "eos_token")
    if eos is None:
        raise UserError(
            f"{file}: no eos_token in the tokenizer_config.json or special_tokens_map.json beside"
            " it"
        )
    id_of = encoders.beginning.token_to_id
    unknown = [text for text in (bos, eos) if text is not None and id_of(text) is None]
    if unknown:
        raise UserError(
            f"{file}: special token {unknown[0]!r} of the files beside it is not in the vocabulary"
        )
    pad = token_text(settings, "pad_token") or eos
    if id_of(pad) is None:  # transformers adds it, too
        for tokenizer in encoders.both:
            add_tokens(tokenizer, [pad], special=True)

    first_id = _id_before_text(encoders.beginning)
    return Specials(
        bos_id=first_id if first_id is not None else bos and id_of(bos),
        eos_id=id_of(eos),
        pad_id=id_of(pad),
        add_bos=first_id is not None,
        chat_template=chat_template(file.parent, settings),
    )


def _encoders(file: Path, tree: dict[str, Any], added: list[AddedToken]) -> Encoders:
    """The library's tokenizers for a tokenizer.json, with the added tokens of the files beside it.

    Raises UserError for a malformed file, and for added tokens whose ids are not those that follow
    the vocabulary.
    """
    import tokenizers

    listed = tree.get("added_tokens") or []
    listed_texts = {token.get("content") for token in listed if isinstance(token, dict)}
    more = [token.as_json() for token in added if token.text not in listed_texts]
    tree = tree | {"added_tokens": [*listed, *more]} if more else tree

    # A response must not begin with the space that the tokenizer puts before a text.
    with refusing(f"{file}: not a tokenizer.json"):
        _check_charsmaps(tree.get("normalizer"))
        beginning = tokenizers.Tokenizer.from_str(json.dumps(tree))
        bare = _without_prefix(tree)
        continuing = beginning if bare == tree else tokenizers.Tokenizer.from_str(json.dumps(bare))
        _try_out(Encoders(beginning, continuing))

    # The library numbers added tokens by itself: files of two tokenizers would not be noticed.
    for token in added:
        actual = beginning.token_to_id(token.text)
        if actual != token.id:
            raise UserError(
                f"{file}: the files beside it give added token {token.text!r} the id {token.id},"
                f" which here is {actual}; they are not of one tokenizer"
            )
    encoders = Encoders(beginning, continuing)
    for tokenizer in encoders.both:
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return encoders


def _check_charsmaps(node: Json) -> None:
    """ValueError for a character map that claims more than it has.

    Its first 4 bytes are the size of a table, for which the library asks for memory unseen: the
    process ends where there is none.
    """
    if isinstance(node, dict) and isinstance(node.get("precompiled_charsmap"), str):
        raw = base64.b64decode(node["precompiled_charsmap"])
        if int.from_bytes(raw[:4], "little") > len(raw) - 4:
            raise ValueError("a precompiled_charsmap that is cut short")
    children = node.values() if isinstance(node, dict) else node
    for child in children if isinstance(node, dict | list) else ():
        _check_charsmaps(child)


def _try_out(encoders: Encoders) -> None:
    """Process a few texts: what the library does not check in a file, it may fail on with any."""
    for text in TRIED:
        for tokenizer in encoders.both:
            tokenizer.decode(tokenizer.encode(text).ids)


def _id_before_text(tokenizer: "tokenizers.Tokenizer") -> int | None:
    """The token that the post-processor puts before every text, or None."""
    ids = tokenizer.encode("a").ids
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    return ids[0] if ids and ids[1 : 1 + len(bare)] == bare else None


def add_tokens(tokenizer: "tokenizers.Tokenizer", texts: list[str], special: bool) -> None:
    """Add these texts to the vocabulary, or mark them where it has them."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text in texts])


def from_library(
    encoders: Encoders,
    specials: Specials,
    is_byte_level: bool,
    files: Callable[[], dict[str, bytes]],
) -> Tokenizer:
    """A Tokenizer run by the library's tokenizers."""
    beginning, continuing = encoders.both
    added = {i: token.content for i, token in beginning.get_added_tokens_decoder().items()}
    piece_text = _byte_level_piece() if is_byte_level else sentencepiece_text
    encode = encode_continuation = partial(_ids, beginning)
    decode = partial(_text, continuing, None)
    if continuing is not beginning:
        decode = partial(_text, continuing, specials.bos_id)
        # Text after a special token gets the leading space again, as it does in `encode`.
        ids_of_added = {text: i for i, text in added.items()}
        encode_continuation = parsing(ids_of_added, partial(_ids, continuing), encode)
    base_ids = beginning.get_vocab(with_added_tokens=False).values()
    return Tokenizer(
        encode=encode,
        encode_continuation=encode_continuation,
        encode_batch=partial(_ids_of_batch, beginning),
        decode=decode,
        pieces=partial(_pieces, beginning, added, piece_text),
        vocab_size=1 + max(beginning.get_vocab().values()),
        n_base=1 + max(base_ids, default=-1),
        bos=None if specials.bos_id is None else beginning.id_to_token(specials.bos_id),
        eos=beginning.id_to_token(specials.eos_id),
        files=files,
        **dataclasses.asdict(specials),
    )


@refusing_panics()
def _ids(tokenizer: "tokenizers.Tokenizer", text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@refusing_panics()
def _ids_of_batch(tokenizer: "tokenizers.Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


@refusing_panics()
def _text(tokenizer: "tokenizers.Tokenizer", prefixed: int | None, ids: Sequence[int]) -> str:
    """Decode; after this first token the text begins with a space that is none of its own."""
    text = tokenizer.decode(list(ids))
    begins = prefixed is not None and ids and ids[0] == prefixed
    return text.removeprefix(" ") if begins else text


def _pieces(
    tokenizer: "tokenizers.Tokenizer",
    added: Mapping[int, str],
    text_of: Callable[[str], str],
    ids: Sequence[int],
) -> list[str]:
    return [added[i] if i in added else text_of(tokenizer.id_to_token(i) or "") for i in ids]


def _without_prefix(tree: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without the steps that put a space before a text, or remove it again."""

    def strip(node: Json) -> Json:
        if isinstance(node, list):
            return [strip(item) for item in node if not _is_prefix_step(item)]
        if not isinstance(node, dict):
            return node
        node = {key: strip(value) for key, value in node.items()}
        # ByteLevel and Metaspace have it as an option, beside its own steps.
        if "add_prefix_space" in node:
            node["add_prefix_space"] = False
        if node.get("type") == "Metaspace":
            node["prepend_scheme"] = "never"
        return node

    steps = {key: strip(tree[key]) for key in PREFIX_STEPS if key in tree}
    return tree | {key: None if _is_prefix_step(step) else step for key, step in steps.items()}


def _is_prefix_step(step: Json) -> bool:
    """True for a step that does no more than put a space before a text, or take one away."""
    if not isinstance(step, dict):
        return False
    strips_space = step.get("type") == "Strip" and step.get("content") == " "
    return step.get("type") == "Prepend" or strips_space


def _byte_level_piece() -> Callable[[str], str]:
    """A function from a byte-level token to its text."""
    # GPT-2 writes every byte as a printable character: its own in Latin-1 where that is one, else
    # the next of those from U+0100 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(others)}

    def piece(token: str) -> str:
        is_byte_level = all(char in byte_of for char in token)
        return bytes_text(bytes(byte_of[char] for char in token)) if is_byte_level else token

    return piece
