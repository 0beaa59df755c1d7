"""Write the token ids that the tokenizer tests expect, and the small SentencePiece model among
them.

    pip install transformers sentencepiece protobuf regex
    python -m tests.text.make_fixtures MODEL.gguf      # SmolLM2-135M-Instruct (fetch smollm2-135m)

tests/fixtures/smollm2_ids.json: ids of torture.TEXTS by reference.smollm2_ids, which restates the
published tokenizer without the tokenizers library. transformers' reading of the GGUF is compared on
the way. It leaves out the step that sets digits apart, so it must agree wherever that cannot matter
(no white space before a digit, no two digits in a row, no numerals but 0-9), and it must differ
somewhere.

tests/fixtures/tiny_llama/: a SentencePiece model with Llama-2's options, trained on those texts;
tokenizer.json, its merges recovered by transformers, with the normaliser and post-processor of
Llama-2's published one; and ids.json, the texts' ids by that.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import regex
import sentencepiece
import transformers
from gguf import GGUFReader
from tokenizers import normalizers, processors

from tests.text import reference, torture

FIXTURES = Path(__file__).parents[1] / "fixtures"


def smollm2(path: str) -> dict:
    fields = GGUFReader(path).fields
    tokens, types, merges = (
        fields[f"tokenizer.ggml.{k}"].contents() for k in ("tokens", "token_type", "merges")
    )
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
    peer = transformers.AutoTokenizer.from_pretrained(
        os.path.dirname(path), gguf_file=os.path.basename(path)
    )
    ids, differ = [], []
    for text in torture.TEXTS:
        ids.append(reference.smollm2_ids(text, tokens, merges, special))
        if peer.encode(text, add_special_tokens=False) != ids[-1]:
            differ.append(text)
    print(
        f"transformers' GGUF reading differs on {len(differ)} of {len(torture.TEXTS)} texts:"
        f" {differ}"
    )
    assert differ
    assert all(regex.search(r"\s\p{N}|\p{N}\p{N}|[\p{N}--0-9]", text, regex.V1) for text in differ)
    return {"ids": ids, "peer_differs": [torture.TEXTS.index(text) for text in differ]}


def tiny_llama() -> dict:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            [t for t in torture.TEXTS if t.strip() and "\0" not in t and "<" not in t] * 3
        ),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    folder = FIXTURES / "tiny_llama"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    with tempfile.TemporaryDirectory() as bare:
        shutil.copy(folder / "tokenizer.model", bare)
        fast = transformers.LlamaTokenizer.from_pretrained(bare).backend_tokenizer
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    fast.pre_tokenizer = None
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    fast.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}\n'
    )
    return {"ids": [fast.encode(text, add_special_tokens=False).ids for text in torture.TEXTS]}


def main() -> None:
    FIXTURES.mkdir(exist_ok=True)
    (FIXTURES / "smollm2_ids.json").write_text(json.dumps(smollm2(sys.argv[1])) + "\n")
    (FIXTURES / "tiny_llama" / "ids.json").write_text(json.dumps(tiny_llama()) + "\n")


if __name__ == "__main__":
    main()
