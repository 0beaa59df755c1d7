"""Write what lm-evaluation-harness logs of two small models, 200 documents a task, and its results.

    pip install -e .[peers]
    python -m lfl_jax.fetch evals
    python tests/parity/make_harness_logs.py

writes tests/parity/harness_logs/: the folders a/ and b/ of two random Llama models, as
`lm_eval --log_samples --output_path=DIR` leaves them (HellaSwag, ARC-Challenge and WinoGrande, run
by the harness's HFLM on transformers), and results.json with the harness's own means and errors. Of
each sample the file keeps what is compared: hashes (their first 6 digits), filter and metrics.
`--whole=DIR` writes the logs as they are, for `pytest -m slow tests/parity/test_harness_logs.py`
with HARNESS_LOGS=DIR. 2 minutes on two cores.
"""

import argparse
import gzip
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.update(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval
import tokenizers
import torch
import transformers
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lfl_jax.assets import readers
from lfl_jax.evals.harness import documents

OUT = Path(__file__).with_name("harness_logs")
TASKS, COUNT = ("hellaswag", "arc_challenge", "winogrande"), 200
KEPT = ("doc_id", "doc_hash", "prompt_hash", "filter", "metrics", "acc", "acc_norm")
HASHES = ("doc_hash", "prompt_hash")


def load(seed):
    """A random model of two layers over bytes."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "<s>", "</s>"])}
    ids = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    ids.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    ids.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=ids, **special)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    return HFLM(
        pretrained=transformers.LlamaForCausalLM(config).eval(),
        tokenizer=tokenizer,
        batch_size=16,
        max_length=512,
    )


def log(model, tasks, folder):
    """Samples and results in a folder, as the harness's command writes them; its results."""
    evaluated = lm_eval.simple_evaluate(
        model=model,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=True,
        bootstrap_iters=2,
    )
    tracker = EvaluationTracker(output_path=str(folder))
    samples = evaluated.pop("samples")
    tracker.save_results_aggregated(results=evaluated, samples=samples)
    for task, lines in samples.items():
        tracker.save_results_samples(task_name=task, samples=lines)
    return evaluated["results"]


def shortened(line):
    sample = json.loads(line)
    kept = {name: sample[name] for name in KEPT if name in sample}
    return json.dumps(kept | {name: sample[name][:6] for name in HASHES})


def shorten(whole, folder):
    """The samples of a folder, without texts, under the names they have."""
    for file in sorted(whole.rglob("samples_*.jsonl")):
        folder.mkdir(parents=True, exist_ok=True)
        lines = map(shortened, file.read_text().splitlines())
        text = "".join(f"{line}\n" for line in lines)
        # mtime: equal logs make equal bytes.
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--whole", type=Path)
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        tasks = scratch / "tasks"
        tasks.mkdir()
        documents.write(tasks, list(TASKS), lambda name: readers.docs(name)[:COUNT], required=True)
        for seed, name in enumerate("ab"):
            results[name] = log(load(seed), tasks, scratch / "logs" / name)
        (scratch / "logs" / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        if options.whole:
            shutil.copytree(scratch / "logs", options.whole)
            return
        for name in "ab":
            shorten(scratch / "logs" / name, OUT / name)
        shutil.copy(scratch / "logs" / "results.json", OUT)


if __name__ == "__main__":
    main()
