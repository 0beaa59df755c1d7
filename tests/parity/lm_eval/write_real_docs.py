"""Write fetched documents and the SmolLM2 tokenizer as files that run_lm_eval.py reads.

    python -m lfl_jax.fetch smollm2-135m evals
    python write_real_docs.py OUT [--gsm8k-train train.jsonl] [--all]

20 documents of each task, evenly spread (GSM8K: the first 20, since its few-shot draw goes by
order), or --all.
"""

import argparse
import json
import pathlib

from lfl_jax import assets
from lfl_jax.assets import readers

FILES = {
    "hellaswag": "hellaswag",
    "arc_challenge": "arc-challenge",
    "winogrande": "winogrande",
    "gsm8k": "gsm8k-test",
}


def original_arc(doc):
    """The harness reads the original fields, the fetched documents have them joined."""
    question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = "ABCDE"[: len(doc["choices"])]
    choices = {"text": doc["choices"], "label": list(labels)}
    return {
        "id": doc["id"],
        "question": question,
        "choices": choices,
        "answerKey": labels[doc["gold"]],
    }


def write(file, docs, indices):
    lines = (json.dumps(docs[i] | {"_index": i}, ensure_ascii=False) + "\n" for i in indices)
    file.write_text("".join(lines), encoding="utf-8")


def write_tokenizer(file):
    """From the GGUF's vocabulary, without lfl_jax's own reader."""
    import gguf
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    fields = gguf.GGUFReader(assets.path("smollm2-135m", "model.gguf")).fields
    tokens, merges, types = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")
    )
    bpe = models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges])
    tokenizer = Tokenizer(bpe)
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    control = [t for t, kind in zip(tokens, types, strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    tokenizer.save(str(file))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--gsm8k-train", type=pathlib.Path)
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, item in FILES.items():
        docs = readers.docs(item)
        docs = [original_arc(doc) for doc in docs] if name == "arc_challenge" else docs
        spread = (
            range(20) if name == "gsm8k" else range(len(docs) // 40, len(docs), len(docs) // 20)
        )
        write(args.out / f"{name}.jsonl", docs, range(len(docs)) if args.all else list(spread)[:20])
    if args.gsm8k_train:
        (args.out / "gsm8k_train.jsonl").write_bytes(args.gsm8k_train.read_bytes())
    write_tokenizer(args.out / "smollm2.json")


if __name__ == "__main__":
    main()
