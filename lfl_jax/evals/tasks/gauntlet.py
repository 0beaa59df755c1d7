"""HellaSwag, ARC-Challenge and WinoGrande as MosaicML's Eval Gauntlet scores them: the paper's
forgetting score.

"LoRA Learns Less and Forgets Less" (arXiv 2405.09673, section 3.3) takes the plain mean of these
three accuracies from llm-foundry's scripts/eval. The choice of the lowest mean cross-entropy per
token wins, where lm-evaluation-harness divides by characters or not at all. WinoGrande is a
"schema": one continuation under two contexts.

As in llm-foundry's datasets: no prompt string, examples end with a line break, a context ends where
its delimiter " " or "\\nAnswer: " would begin its last space, and shots, context and continuation
are encoded one by one. Shots are drawn for every question in turn from the evaluated questions
themselves, by one random.Random(1234).

The paper does not give the number of shots; these are of the Gauntlet v0.2 and v0.3 (0, 3 and 5),
current when it was written, whatever config.eval.shots says. Questions are the data sets' own. Of
WinoGrande, llm-foundry's file is the same; of its 1172 ARC questions 19 have another gold choice
(labels 1-4 taken for indices) and 7 another number of choices, which can move accuracy by up to 2.2
points.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.evals import multiple_choice
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.requests import Request, truncate
from lfl_jax.evals.task import Inputs, Likelihood, Record, Task
from lfl_jax.evals.tasks import arc_challenge, hellaswag, winogrande
from lfl_jax.text.tokenizers import Tokenizer

SEED = 1234  # of the shots: one random.Random for the whole task
SHOTS = {"hellaswag_gauntlet": 0, "arc_challenge_gauntlet": 3, "winogrande_gauntlet": 5}


@dataclass(frozen=True)
class Choice:
    """A question after its `shots`: a (context, continuation) pair for each choice; `gold` an
    index."""

    id: str
    cluster: str
    shots: str
    pairs: tuple[tuple[str, str], ...]
    gold: int


def hellaswag_choices(inputs: Inputs) -> list[Choice]:
    """The validation split."""
    return _choices(inputs, hellaswag.questions(inputs), "hellaswag_gauntlet")


def arc_choices(inputs: Inputs) -> list[Choice]:
    """The test split, "Question: ...\\nAnswer:" before each choice."""
    return _choices(inputs, arc_challenge.questions(inputs), "arc_challenge_gauntlet")


def winogrande_choices(inputs: Inputs) -> list[Choice]:
    """The xl validation split; the contexts are the choices."""
    return _choices(inputs, winogrande.questions(inputs), "winogrande_gauntlet")


def _choices(inputs: Inputs, questions: Sequence[Question], task: str) -> list[Choice]:
    return after_shots(questions, 0 if inputs.without_few_shot else SHOTS[task])


def after_shots(questions: Sequence[Question], shots: int) -> list[Choice]:
    """Every question after `shots` others with their right choices."""
    rng, pairs = (
        random.Random(SEED),
        [[(c.rstrip(), r.removeprefix(" ")) for c, r in q.pairs] for q in questions],
    )
    turns = [" ".join(of_question[q.gold]) for q, of_question in zip(questions, pairs, strict=True)]
    made = []
    for i, (q, of_question) in enumerate(zip(questions, pairs, strict=True)):
        before = "\n".join(turns[j] for j in draw(len(questions), shots, i, rng))
        border = "\n" if before else ""
        made.append(
            Choice(q.id, q.cluster, before, tuple((border + c, r) for c, r in of_question), q.gold)
        )
    return made


def draw(count: int, shots: int, number: int, rng: random.Random) -> list[int]:
    """Positions of `shots` questions other than `number`, in llm-foundry's order, which is that of
    a Python set."""
    shots = min(count - 1, shots)
    chosen = set(rng.sample(range(count), shots))
    chosen.discard(number)
    while len(chosen) < shots:
        other = rng.choice(range(count))
        if other != number:
            chosen.add(other)
    return list(chosen)


def requests(choice: Choice, tokenizer: Tokenizer, length: int) -> list[Request]:
    """One request per choice; a continuation begins with a space: its own, the tokenizer's, or else
    one put there."""
    own_space = tokenizer.encode("a") != tokenizer.encode_continuation("a")
    shots, made = prompt_ids(choice.shots, tokenizer), []
    for context, continuation in choice.pairs:
        text = continuation if own_space or continuation.startswith(" ") else f" {continuation}"
        made.append(Request((*shots, *tokenizer.encode(context)), tuple(tokenizer.encode(text))))
    return [truncate(request, length) for request in made]


def record(choice: Choice, scored: list[Scored]) -> Record:
    """acc: the lowest mean cross-entropy (`nll_per_token`, nats) is the gold choice's; the first of
    equals wins.

    `gold_logprob` is the log of the gold choice's probability among the choices (log-softmax of ll,
    the sums), `gold_logprob_norm` the same of the means that decide.
    """
    ll = np.array([s.ll for s in scored], np.float64)
    means = ll / np.maximum([s.tokens for s in scored], 1)
    return {
        "id": choice.id,
        "cluster": choice.cluster,
        "gold": choice.gold,
        "prediction": int(np.argmax(means)),
        "acc": float(np.argmax(means) == choice.gold),
        "gold_logprob": multiple_choice.log_softmax(ll, choice.gold),
        "gold_logprob_norm": multiple_choice.log_softmax(means, choice.gold),
        "ll": ll.tolist(),
        "nll_per_token": (-means).tolist(),
        "tokens": [s.tokens for s in scored],
        "bytes": multiple_choice.continuation_bytes(choice.pairs),
        "truncated": any(s.truncated for s in scored),
    }


METHOD = Likelihood(requests, record)
METRICS = multiple_choice.metrics(("acc",), unit="token")
HELLASWAG = Task("hellaswag_gauntlet", 2, "Gauntlet HellaSwag", hellaswag_choices, METHOD, METRICS)
ARC_CHALLENGE = Task("arc_challenge_gauntlet", 2, "Gauntlet ARC-C", arc_choices, METHOD, METRICS)
WINOGRANDE = Task(
    "winogrande_gauntlet", 2, "Gauntlet WinoGrande", winogrande_choices, METHOD, METRICS
)
