"""A scorer whose every number can be computed by hand."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from lfl_jax.evals.task import Inputs, Scorer
from lfl_jax.text.tokenizers import Tokenizer

PARITY = Path(__file__).parents[1] / "parity" / "lm_eval"
SPEC = importlib.util.spec_from_file_location("lm_eval_toy", PARITY / "toy.py")
TOY = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(TOY)


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def score(rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The toy's state of a position is the sum over all positions it may attend to: a wrong mask
    changes it."""
    tokens, positions = rows["tokens"].astype(np.int64), rows["positions"].astype(np.int64)
    features = np.where(rows["segment_ids"] > 0, TOY.feature(tokens, positions), 0)
    segment, branch = rows["segment_ids"], rows["branch_ids"]
    same = segment[:, :, None] == segment[:, None, :]
    shared = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    causal = np.tril(np.ones((tokens.shape[1],) * 2, bool))
    states = (
        np.einsum("bij,bj->bi", (same & shared & causal).astype(np.int64), features) % TOY.MODULUS
    )
    nll = TOY.nll(states, rows["targets"].astype(np.int64))
    scored = rows["weights"] > 0
    return np.where(scored, nll, 0).astype(np.float32), scored & TOY.greedy(nll)


@pytest.fixture(scope="session")
def toy():
    """The toy tokenizer, scorer and generator."""
    return TOY


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The toy's; `decode` writes ids as numbers."""
    return Tokenizer(
        encode=TOY.encode,
        encode_continuation=TOY.encode,
        encode_batch=lambda texts: [TOY.encode(text) for text in texts],
        decode=lambda ids: " ".join(map(str, ids)),
        pieces=lambda ids: [str(i) for i in ids],
        vocab_size=TOY.VOCAB,
        bos_id=TOY.BOS,
        eos_id=TOY.EOS,
        pad_id=TOY.EOS,
        add_bos=False,
        bos="<bos>",
        eos="<eos>",
        chat_template=None,
    )


@pytest.fixture
def toy_model(tokenizer) -> Scorer:
    """The toy as evaluations see it; it answers prompts of the synthetic documents by their
    text."""

    def generate(prompts, *, max_new_tokens, stop, example_ids):
        assert len(prompts) == len(example_ids)
        return [
            f" {sum(prompt) % 90}.\n#### {sum(prompt) % 7}<eos> Question: 5" for prompt in prompts
        ]

    return Scorer("toy", tokenizer, score, generate)


@pytest.fixture(scope="session")
def synthetic() -> dict:
    """What lm-evaluation-harness makes of the synthetic documents
    (tests/parity/lm_eval/run_lm_eval.py)."""
    return json.loads((PARITY / "synthetic.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    """The synthetic documents under the names of the fetched ones."""
    files = {
        "hellaswag": "hellaswag",
        "arc-challenge": "arc_challenge",
        "winogrande": "winogrande",
        "gsm8k-test": "gsm8k",
        "gsm8k-train": "gsm8k_train",
    }
    shots = [
        ("One and one?", "It is 2. So the answer is 2."),
        ("Nine less 2?", "It is $7. The answer is 7"),
    ]
    return Inputs(
        docs=lambda name: lines(PARITY / "synthetic" / f"{files[name]}.jsonl"),
        fixed_shots=lambda: shots,
    )
