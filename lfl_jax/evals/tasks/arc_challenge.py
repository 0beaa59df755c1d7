"""ARC-Challenge: grade-school science questions that word co-occurrence alone does not answer.

Clark et al. 2018, arXiv 1803.05457. Data: Challenge set, test split, 1172 questions of three to
five choices, CC-BY-SA-4.0 licence. The first of them, as a prompt and four continuations that are
scored:

    Question: An astronomer observes that a planet rotates faster after a meteorite impact. Which is
    the most likely effect of this increase in rotation?
    Answer:
     Planetary density will decrease.
     Planetary years will become longer.
     Planetary days will become shorter.      <- gold
     Planetary gravity will become stronger.

Metrics, as in lm-evaluation-harness's `arc_challenge`: acc_norm (main) predicts the choice of the
largest log-probability per character, acc that of the largest log-probability.
"""

from lfl_jax.evals import multiple_choice
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs


def questions(inputs: Inputs) -> list[Question]:
    """The test split; every question is its own cluster."""
    return [question(doc) for doc in inputs.docs("arc-challenge")]


def question(doc: dict) -> Question:
    """From an original document, or from a fetched one, which has the prompt as its `query`."""
    # The fetched query is the prompt below, filled in.
    if "query" in doc:
        context, choices, gold = doc["query"], tuple(doc["choices"]), int(doc["gold"])
    else:
        context = f"Question: {doc['question']}\nAnswer:"
        choices = tuple(doc["choices"]["text"])
        # Labels are A to E for some questions and 1 to 5 for others.
        gold = list(doc["choices"]["label"]).index(doc["answerKey"])
    pairs = tuple((context, f" {choice}") for choice in choices)
    return Question(doc["id"], doc["id"], pairs, choices, gold)


# acc_norm first: choices differ in length, and long ones have small probabilities.
TASK = multiple_choice.task("arc_challenge", 2, "ARC-Challenge", questions, ("acc_norm", "acc"))
