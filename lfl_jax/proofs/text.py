"""What examples become: whether answers end, and whether there is anything to learn from."""

import numpy as np

from lfl_jax.data import checks
from lfl_jax.data.tokenized import TokenizedExample, TokenizedSource, encode
from lfl_jax.proofs.finding import Finding, judged
from lfl_jax.proofs.reduced import ReducedRun

READ = 64  # examples


def check(run: ReducedRun) -> Finding:
    """Every example has loss on its answer and on the EOS after it, and none on all of its prompt.

    As rows of the config's own length are made of them.
    """
    # Bytes in place of tokens would not fit into its rows.
    data = run.full.data if run.has_tokenizer else run.config.data
    source = TokenizedSource(run.tokenized.source, run.tokenized.tokenizer, data)
    examples = [source.tokens(i) for i in range(min(READ, len(source)))]
    ends, used = _after_cutting(source, examples)
    # Of a tokenizer that stands for the config's own, nothing is known about special tokens.
    doubts = list(checks.template_doubts(source)) if run.has_tokenizer else []
    doubts += filter(None, (_problem(source, i, x) for i, x in enumerate(examples)))
    if not used:
        doubts.append(f"no example has a token with loss in data.seq_len={data.seq_len}")
    elif not ends:
        doubts.append("no example keeps its EOS when it is cut: no answer is taught to end")

    measured = f"{len(doubts)} doubts about {len(examples)} examples"
    reason = f"{used} of {len(examples)} are trained on, {ends} with their EOS"
    return judged(not doubts, measured, "none", "; ".join([*doubts[:2], reason]))


def _problem(source: TokenizedSource, index: int, example: TokenizedExample) -> str:
    """What is wrong with the mask of one example; "" where nothing is."""
    if example.ids[-1] != source.tokenizer.eos_id or not example.loss[-1]:
        return f"example {example.name} has no EOS with loss at its end"
    if example.loss.sum() < 2:
        return f"the loss mask of example {example.name} is empty but for EOS"
    if example.loss.all() and not source.source.examples[index].is_document:
        return f"all of example {example.name} carries loss, its prompt, too"
    return ""


def _after_cutting(source: TokenizedSource, examples: list[TokenizedExample]) -> tuple[int, int]:
    """Of the examples: how many keep their EOS as a target, and how many are trained on at all."""
    rows = [encode(example, i, source.row_format) for i, example in enumerate(examples)]
    used = [row for row in rows if row is not None]
    eos = source.tokenizer.eos_id
    ends = [np.any((row["targets"] == eos) & (row["weights"] > 0)) for row in used]
    return sum(map(bool, ends)), len(used)
