"""ARC-Challenge: grade-school science questions with three to five choices (Clark et al., arXiv
1803.05457)."""

from lfl_jax.evals import multiple_choice
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs


def questions(inputs: Inputs) -> list[Question]:
    """The test split; every question is its own cluster."""
    return [question(doc) for doc in inputs.docs("arc-challenge")]


def question(doc: dict) -> Question:
    """From an original document, or from one whose prompt is ready: query, choices and gold index
    (as fetched)."""
    if "query" in doc:
        context, choices, gold = doc["query"], tuple(doc["choices"]), int(doc["gold"])
    else:
        context = f"Question: {doc['question']}\nAnswer:"
        choices = tuple(doc["choices"]["text"])
        gold = list(doc["choices"]["label"]).index(doc["answerKey"])
    return Question(doc["id"], doc["id"], tuple((context, f" {c}") for c in choices), choices, gold)


TASK = multiple_choice.task("arc_challenge", 2, "ARC-Challenge", questions, ("acc_norm", "acc"))
