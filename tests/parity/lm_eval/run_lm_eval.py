"""Run lm-evaluation-harness itself (0.4.13) on local documents with the toy scorer, and write down
what it did.

    python run_lm_eval.py DOCS OUT.json [--tokenizer tokenizer.json] [--hash]

DOCS holds hellaswag.jsonl, arc_challenge.jsonl, winogrande.jsonl, gsm8k.jsonl (any of them) and
gsm8k_train.jsonl. Needs the `peers` extra, not lfl_jax. --hash keeps SHA-256 digests in place of
texts and ids. SOURCES.md has the commands that made the committed fixtures.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import tempfile

os.environ.update(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval
import toy
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

HOME = pathlib.Path(lm_eval.__file__).parent / "tasks"
TASKS = {  # name: (its yaml, the split that is evaluated, few-shot examples)
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation", 0),
    "arc_challenge": ("arc/arc_challenge.yaml", "test", 0),
    "winogrande": ("winogrande/default.yaml", "validation", 0),
    "gsm8k": ("gsm8k/gsm8k.yaml", "test", 5),
    "gsm8k_0shot": ("gsm8k/gsm8k.yaml", "test", 0),
}


class Recorder(TemplateLM):
    """The toy model; keeps every request it was given, as text and as ids."""

    backend = "causal"
    max_gen_toks = 256
    tokenizer_name = "toy"
    eot_token_id = toy.EOS
    prefix_token_id = toy.BOS

    def __init__(self, encode):
        super().__init__()
        self.encode = encode
        self.requests = {}

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return self.encode(string)

    def _loglikelihood_tokens(self, requests, disable_tqdm=False):
        self.requests |= {
            texts: (context, continuation) for texts, context, continuation in requests
        }
        return [toy.score(context, continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=False):
        return [cut(toy.generate(r.args[0]), r.args[1]["until"]) for r in requests]


def cut(text, until):
    for stop in until:
        text = text.split(stop)[0]
    return text


def evaluate(docs, name, encode):
    """One task by the harness: its aggregate results, and per document the requests and metrics."""
    yaml, split, shots = TASKS[name]
    file = name.removesuffix("_0shot")
    files = {split: str((docs / f"{file}.jsonl").resolve())}
    train = docs / f"{file}_train.jsonl"
    lines = [
        f"include: {HOME / yaml}",
        f"task: {name}_local",
        "dataset_path: json",
        "dataset_name: null",
    ]
    if train.is_file():
        files["train"] = str(train.resolve())
    else:
        lines += ["training_split: null"]
    if split == "test":
        lines += ["validation_split: null"]
    lines += [
        "dataset_kwargs:",
        "  data_files:",
        *(f"    {split}: {path}" for split, path in files.items()),
    ]
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / f"{name}.yaml").write_text("\n".join(lines) + "\n")
        model = Recorder(encode)
        out = lm_eval.simple_evaluate(
            model=model,
            tasks=[f"{name}_local"],
            num_fewshot=shots,
            task_manager=TaskManager(include_path=folder),
            log_samples=True,
            bootstrap_iters=10,
        )
    return summary(out, name, model)


def summary(out, name, model):
    samples = sorted(out["samples"][f"{name}_local"], key=lambda s: s["doc_id"])
    documents = {}
    for sample in samples:
        requests = [tuple(arguments) for arguments in sample["arguments"]]
        document = documents.setdefault(sample["doc_id"], {})
        if "_index" in sample["doc"]:
            document["index"] = sample["doc"]["_index"]
        if name.startswith("gsm8k"):
            document["requests"] = [[requests[0][0], ""]]
            document[sample["filter"]] = [sample["filtered_resps"][0], float(sample["exact_match"])]
            document["response"] = sample["resps"][0][0]
            document["until"] = requests[0][1]["until"]
            continue
        document["requests"] = [list(r) for r in requests]
        document["ids"] = [[list(part) for part in model.requests[r]] for r in requests]
        document["ll"] = [float(r[0][0]) for r in sample["resps"]]
        document["greedy"] = [bool(r[0][1]) for r in sample["resps"]]
        document |= {k: float(sample[k]) for k in ("acc", "acc_norm") if k in sample}
    results = {k: v for k, v in out["results"][f"{name}_local"].items() if isinstance(v, float)}
    return {"results": results, "documents": list(documents.values())}


def digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def hashed(task):
    documents = [
        document
        | {field: digest(document[field]) for field in ("requests", "ids") if field in document}
        for document in task["documents"]
    ]
    return task | {"documents": documents}


def windows():
    """The harness's rolling windows of 0 .. 23 tokens, for windows of 1, 4 and 10."""
    found = []
    for length in (1, 4, 10):
        for n in range(24):
            made = get_rolling_token_windows(list(range(n)), -1, length, 1)
            found.append(
                [n, length, [list(map(list, make_disjoint_window(pair))) for pair in made]]
            )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("docs", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer")
    parser.add_argument("--hash", action="store_true")
    args = parser.parse_args()
    encode = toy.encode
    if args.tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(args.tokenizer)
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    tasks = {}
    for name in TASKS:
        if (args.docs / f"{name.removesuffix('_0shot')}.jsonl").is_file():
            task = evaluate(args.docs, name, encode)
            tasks[name] = hashed(task) if args.hash else task
            print(name, task["results"], file=sys.stderr)
    fixture = {"lm_eval": lm_eval.__version__, "tasks": tasks, "windows": windows()}
    args.out.write_text(
        json.dumps(fixture, ensure_ascii=False, indent=None) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
