"""Write what lm-evaluation-harness itself makes of SmolLM2-135M-Instruct: its HFLM, running
transformers.

    pip install -e .[peers]
    python -m lfl_jax.fetch smollm2-135m evals
    python tests/parity/make_lm_eval_bridge.py [--gsm8k-train train.jsonl]    # of openai/grade-school-math

writes tests/parity/lm_eval_bridge/smollm2.json: 20 documents of HellaSwag, ARC-Challenge,
WinoGrande and GSM8K (with 0 shots; with 5 given --gsm8k-train), of each the prompt and token ids as
digests, log-likelihoods, answers and metrics. Weights come from the GGUF by transformers' reader,
token ids from a tokenizer that lm_eval/write_real_docs.py makes of its vocabulary. A few more are
cut on the left, in the chat template, or scored in windows. 8 minutes on two cores. --count=200
--cases=hellaswag,gsm8k --out=FILE writes more of some, for the slow test: LM_EVAL_FIXTURE=FILE
pytest -m slow -k on_all tests/evals/harness.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lm_eval"))

import gguf
import lm_eval
import tokenizers
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from write_real_docs import write_tokenizer

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.evals.harness import documents

ITEMS = {
    "hellaswag": "hellaswag",
    "arc_challenge": "arc-challenge",
    "winogrande": "winogrande",
    "gsm8k": "gsm8k-test",
}
COUNT, TOKENS, LENGTH = 20, 48, 1024
# Names in the fixture: task, documents, few-shot examples, max_length, generated tokens, chat
# template.
CASES = {
    "hellaswag": ("hellaswag", COUNT, 0, LENGTH, TOKENS, False),
    "arc_challenge": ("arc_challenge", COUNT, 0, LENGTH, TOKENS, False),
    "winogrande": ("winogrande", COUNT, 0, LENGTH, TOKENS, False),
    "gsm8k": ("gsm8k", COUNT, 0, LENGTH, TOKENS, False),
    "gsm8k_5shot": ("gsm8k", COUNT, 5, LENGTH, TOKENS, False),
    "hellaswag_cut": ("hellaswag", 4, 0, 64, TOKENS, False),
    "gsm8k_cut": ("gsm8k", 4, 0, 64, 16, False),
    "gsm8k_chat": ("gsm8k", 4, 0, LENGTH, 16, True),
}
ROLLING = (3, 64)  # documents of BoolQ's passages, max_length


class Recorder(HFLM):
    """Keeps the token ids it was given."""

    def __init__(self, **options):
        super().__init__(**options)
        self.ids = {}

    def _loglikelihood_tokens(self, requests, **options):
        self.ids |= {texts: [list(context), list(rest)] for texts, context, rest in requests}
        return super()._loglikelihood_tokens(requests, **options)


def indices(item, count):
    """Documents spread over the set; GSM8K's first, since its few-shot draw goes by order."""
    total = len(readers.docs(item))
    return (
        list(range(count))
        if item == "gsm8k-test"
        else [(2 * i + 1) * total // (2 * count) for i in range(count)]
    )


def digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def load(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32
    ).eval()
    template = gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        write_tokenizer(file)
        ids = tokenizers.Tokenizer.from_file(str(file))
    ids.decoder = tokenizers.decoders.ByteLevel()
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=ids, **special)
    tokenizer.chat_template = template
    return model, tokenizer


def evaluate(model, tokenizer, case, docs):
    task, count, shots, length, tokens, chat = case
    chosen = indices(ITEMS[task], count)
    lm = Recorder(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=length)
    with tempfile.TemporaryDirectory() as folder:
        read = lambda item: docs(item) if item == "gsm8k-train" else [docs(item)[i] for i in chosen]  # noqa: E731
        documents.write(Path(folder), [task], read, required=True)
        found = lm_eval.simple_evaluate(
            model=lm,
            tasks=[task],
            num_fewshot=shots,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            gen_kwargs={"max_gen_toks": tokens} if task == "gsm8k" else None,
            apply_chat_template=chat,
        )
    results = {k: v for k, v in found["results"][task].items() if isinstance(v, float)}
    return {
        "case": list(case),
        "results": results,
        "documents": by_document(found["samples"][task], lm, chosen),
    }


def by_document(samples, lm, chosen):
    made = {}
    for sample in sorted(samples, key=lambda s: s["doc_id"]):
        entry = made.setdefault(sample["doc_id"], {"index": chosen[sample["doc_id"]]})
        arguments = [tuple(a) for a in sample["arguments"]]
        if isinstance(arguments[0][1], dict):
            context = arguments[0][0]
            entry |= {
                "prompt": digest(context),
                "ids": digest(lm.tok_encode(context)),
                "text": sample["resps"][0][0],
            }
            entry[sample["filter"]] = [sample["filtered_resps"][0], float(sample["exact_match"])]
        else:
            entry |= {"prompt": digest(arguments), "ids": digest([lm.ids[a] for a in arguments])}
            entry["ll"] = [round(float(r[0][0]), 5) for r in sample["resps"]]
            entry["greedy"] = [bool(r[0][1]) for r in sample["resps"]]
            entry |= {k: float(sample[k]) for k in ("acc", "acc_norm") if k in sample}
    return list(made.values())


def rolling(model, tokenizer):
    count, length = ROLLING
    texts = [doc["passage"] for doc in readers.docs("boolq")[:count]]
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=length)
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    return {
        "length": length,
        "ll": [round(float(x), 4) for x in lm.loglikelihood_rolling(requests)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gsm8k-train", type=Path)
    parser.add_argument(
        "--count", type=int, default=COUNT, help="documents of each of the first five cases"
    )
    parser.add_argument("--cases", default=",".join(CASES), help="names, with commas")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "lm_eval_bridge" / "smollm2.json"
    )
    args = parser.parse_args()

    def docs(item):
        if item == "gsm8k-train" and args.gsm8k_train:
            return [
                json.loads(line)
                for line in args.gsm8k_train.read_text(encoding="utf-8").splitlines()
            ]
        return readers.docs(item)

    model, tokenizer = load(str(assets.path("smollm2-135m", "model.gguf")))
    versions = {
        "lm_eval": lm_eval.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    fixture = {"made_with": versions, "rolling": rolling(model, tokenizer), "cases": {}}
    for name, case in CASES.items():
        case = (case[0], args.count if case[1] == COUNT else case[1], *case[2:])
        if name in args.cases.split(",") and (case[2] == 0 or args.gsm8k_train):
            fixture["cases"][name] = evaluate(model, tokenizer, case, docs)
            print(name, fixture["cases"][name]["results"], file=sys.stderr, flush=True)
    args.out.write_text(json.dumps(fixture, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
