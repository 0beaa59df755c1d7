"""A tokenizer of whole words, for small worlds whose words are all known."""

import json
from collections.abc import Sequence
from typing import Any

from lfl_jax.text import hf_tokenizers
from lfl_jax.text.hf_tokenizers import Encoders
from lfl_jax.text.tokenizer import Specials, Tokenizer, hf_settings


def word_level(specials: Sequence[str], words: Sequence[str]) -> Tokenizer:
    """A token per word, between white space, and BOS first.

    specials: the texts for padding, BOS, EOS and unknown words, which have the first ids. Its files
    are a tokenizer.json that the tokenizers library and transformers read.
    """
    import tokenizers

    tree = _tokenizer_json(specials, words)
    library = tokenizers.Tokenizer.from_str(json.dumps(tree))
    pad, bos, eos, unknown = specials
    # The names by which transformers' AutoTokenizer finds the class and the special tokens.
    settings = hf_settings(
        "PreTrainedTokenizerFast", pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unknown
    )
    written = {
        "tokenizer.json": (json.dumps(tree, indent=1) + "\n").encode(),
        "tokenizer_config.json": settings,
    }
    # The first ids, by the order of `specials`.
    roles = Specials(bos_id=1, eos_id=2, pad_id=0, add_bos=True, chat_template=None)
    return hf_tokenizers.from_library(
        Encoders(library, library), roles, is_byte_level=False, files=lambda: dict(written)
    )


def _tokenizer_json(specials: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    """The tokenizers library's own format."""
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, text in enumerate(specials)
    ]
    bos, unknown = specials[1], specials[3]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        # BOS before a text, as transformers adds it; our own encode leaves it to `prompt_ids`.
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": bos, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {bos: {"id": bos, "ids": [1], "tokens": [bos]}},
        },
        # None: the words are joined by spaces.
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {text: i for i, text in enumerate([*specials, *words])},
            "unk_token": unknown,
        },
    }
