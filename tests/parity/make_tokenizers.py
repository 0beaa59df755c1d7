"""Writes tokenizers.json: ids that transformers gives for the cases of tokenizer_cases.py, for
test_tokenizers.py.

    python -m tests.parity.make_tokenizers          needs the extra peers
    python -m tests.parity.make_tokenizers --check  compares with the file instead; exit 1 where they differ

GGUF: the vocabulary is trained here on the texts. llama-bpe by transformers' reading of the file;
qwen2 by its Qwen2Tokenizer, which composes characters as the published tokenizer does and its
reading of a GGUF file does not.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, Qwen2Tokenizer

from tests.parity import tokenizer_cases as cases

FILE = Path(__file__).with_name("tokenizers.json")


def folder(name: str) -> dict:
    with tempfile.TemporaryDirectory() as place:
        found = AutoTokenizer.from_pretrained(cases.write_folder(name, Path(place)))
    special = {"pad": found.pad_token_id, "eos": found.eos_token_id, "size": len(found)}
    return special | {"ids": [found(text)["input_ids"] for text in cases.TEXTS]}


def vocabulary() -> dict:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    options = {"special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    trained.train_from_iterator(
        cases.GGUF_TEXTS * 3, trainers.BpeTrainer(vocab_size=330, **options)
    )
    tree = json.loads(trained.to_str())["model"]
    tokens = sorted(tree["vocab"], key=tree["vocab"].get)
    # Whole words that no merge makes, as Llama 3 has: its rule takes them whole, and no other does.
    return {
        "tokens": [*tokens, "done"],
        "merges": [" ".join(pair) for pair in tree["merges"] if "".join(pair) != "done"],
    }


def gguf(rule: str, vocabulary: dict) -> list:
    with tempfile.TemporaryDirectory() as place:
        file = cases.write_gguf(rule, vocabulary, Path(place) / "model.gguf")
        if rule == "qwen2":
            vocab = {token: i for i, token in enumerate(vocabulary["tokens"])}
            merges = [tuple(merge.split(" ")) for merge in vocabulary["merges"]]
            found = Qwen2Tokenizer(vocab=vocab, merges=merges)
            found.add_special_tokens({"additional_special_tokens": ["<|begin|>", "<|end|>"]})
        else:
            found = AutoTokenizer.from_pretrained(place, gguf_file=file.name)
        return [found(text, add_special_tokens=False)["input_ids"] for text in cases.GGUF_TEXTS]


def main() -> None:
    logging.disable(logging.WARNING)
    trained = json.loads(FILE.read_text())["vocabulary"] if "--check" in sys.argv else vocabulary()
    found = {
        "folders": {name: folder(name) for name in cases.FOLDERS},
        "vocabulary": trained,
        "gguf": {rule: gguf(rule, trained) for rule in ("llama-bpe", "qwen2")},
    }
    if "--check" in sys.argv:
        sys.exit(found != json.loads(FILE.read_text()))
    FILE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
