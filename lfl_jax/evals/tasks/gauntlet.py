"""HellaSwag, ARC-Challenge and WinoGrande as MosaicML's Eval Gauntlet scores them.

The forgetting score of "LoRA Learns Less and Forgets Less" (Biderman et al. 2024, arXiv 2405.09673,
section 3.3) is the plain mean of these three accuracies, from llm-foundry's scripts/eval. Data and
licences as in `hellaswag`, `arc_challenge` and `winogrande`. The first
WinoGrande question, after the last of its few-shot examples:

    Pete preferred to use the sheet to the blanket, because the blanket was much hotter.
    Sarah was a much better surgeon than Maria so Sarah | always got the easier cases.
    Sarah was a much better surgeon than Maria so Maria | always got the easier cases.   <- gold

Metric: acc predicts the choice of the lowest mean cross-entropy per token, where
lm-evaluation-harness divides by characters or not at all.

As in llm-foundry's datasets: no description at the start, few-shot examples end with a line break,
and few-shot examples, context and continuation are encoded one by one. A context ends where its
delimiter, " " or "\\nAnswer: ", would begin its last space. The few-shot examples of every question
are drawn from the other evaluated questions, by one random.Random(1234) for the task.

The paper does not state the number of few-shot examples. These are the Gauntlet's of v0.2 and v0.3
(0, 3 and 5), current when it was written, whatever config.eval.shots says. Questions are those of
the data sets. llm-foundry's file for WinoGrande is the same. Of its 1172 ARC questions, 19 have
another gold choice, as labels 1 to 4 were read as indices from 0, and 7 another number of choices.
That can change accuracy by up to 2.2 points.
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

SEED = 1234
# Few-shot examples by task, of the Gauntlet's v0.2 and v0.3.
SHOTS = {"hellaswag_gauntlet": 0, "arc_challenge_gauntlet": 3, "winogrande_gauntlet": 5}


@dataclass(frozen=True)
class Choice:
    """A question after its few-shot examples, `shots`.

    pairs: (context, continuation) of each choice. gold: the index of the right one.
    """

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
    solved = [" ".join(_stripped(question)[question.gold]) for question in questions]
    choices = []
    # One generator for all questions: a draw depends on how many were before it.
    rng = random.Random(SEED)
    for i, question in enumerate(questions):
        few_shot = "\n".join(solved[j] for j in draw(len(questions), shots, i, rng))
        # The line break belongs to the context, which is encoded apart from what precedes it.
        border = "\n" if few_shot else ""
        pairs = tuple((border + context, text) for context, text in _stripped(question))
        choices.append(Choice(question.id, question.cluster, few_shot, pairs, question.gold))
    return choices


def _stripped(question: Question) -> list[tuple[str, str]]:
    # The space between the two is put back when they are joined or encoded.
    return [(context.rstrip(), text.removeprefix(" ")) for context, text in question.pairs]


def draw(count: int, shots: int, index: int, rng: random.Random) -> list[int]:
    """Indices of `shots` questions other than `index`.

    In llm-foundry's order, which is that of a Python set.
    """
    shots = min(count - 1, shots)
    # The question itself may be drawn; it is then replaced, one draw at a time.
    drawn = set(rng.sample(range(count), shots))
    drawn.discard(index)
    while len(drawn) < shots:
        other = rng.choice(range(count))
        if other != index:
            drawn.add(other)
    return list(drawn)


def requests(choice: Choice, tokenizer: Tokenizer, length: int) -> list[Request]:
    """One request per choice, whose continuation is encoded with a space before it."""
    # Tokenizers of the Llama family put a space before a text themselves.
    adds_space = tokenizer.encode("a") != tokenizer.encode_continuation("a")
    # BOS, where the tokenizer has one, begins the row: contexts are encoded without it.
    shots = prompt_ids(choice.shots, tokenizer)
    of_choices = []
    for context, continuation in choice.pairs:
        text = continuation if adds_space or continuation.startswith(" ") else f" {continuation}"
        ids = (*shots, *tokenizer.encode(context))
        of_choices.append(truncate(Request(ids, tuple(tokenizer.encode(text))), length))
    return of_choices


def record(choice: Choice, scored: list[Scored]) -> Record:
    """acc: the gold choice has the lowest mean cross-entropy (`nll_per_token`, nats).

    Of equal choices the first is predicted. `gold_logprob` is the log of the gold choice's
    probability among the choices, the log-softmax of the sums `ll`; `gold_logprob_norm` is that of
    the means, which decide.
    """
    # In nats. A continuation without tokens counts as one of one token.
    ll = np.array([s.ll for s in scored], np.float64)
    tokens = [s.tokens for s in scored]
    means = ll / np.maximum(tokens, 1)
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
        "tokens": tokens,
        "bytes": multiple_choice.continuation_bytes(choice.pairs),
        "truncated": any(s.truncated for s in scored),
    }


METHOD = Likelihood(requests, record)
# Normalised log-probabilities are per token, where multiple_choice divides by characters.
METRICS = multiple_choice.metrics(("acc",), unit="token")
HELLASWAG = Task("hellaswag_gauntlet", 2, "Gauntlet HellaSwag", hellaswag_choices, METHOD, METRICS)
ARC_CHALLENGE = Task("arc_challenge_gauntlet", 2, "Gauntlet ARC-C", arc_choices, METHOD, METRICS)
WINOGRANDE = Task(
    "winogrande_gauntlet", 2, "Gauntlet WinoGrande", winogrande_choices, METHOD, METRICS
)
