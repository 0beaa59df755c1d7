"""Divergence from the base: KL of next-token distributions, on held-out targets and general text.

`target_kl` reads the texts of `target_nll` and measures at the positions that predict the response,
`source_kl` those of `source_nll`, at all positions (perplexity.py shows both). The base reads the
same ids, so nothing is sampled: this is the divergence under teacher forcing.

`base_sample_kl` reads what the base itself samples (temperature 1, at most
config.eval.max_new_tokens tokens, the same for every model of a base) after the prompts of
`target_nll`, or after nothing where the targets are documents. Its sum over an answer is, by the
chain rule, an unbiased estimate of the KL between the two models' distributions over answers:
forward_kl_answer.

Metrics: forward_kl (main) is KL(base || model), reverse_kl KL(model || base), over the full
vocabulary, in nats per token. Records hold the sums over an item's tokens. A base, and a model with
an identity adapter, has exactly 0.
"""

from dataclasses import replace

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.evals.batching import Diverged
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.requests import prefix_id
from lfl_jax.evals.task import Diverge, DivergeSampled, Item, Record, Task
from lfl_jax.evals.tasks import perplexity
from lfl_jax.evals.tasks.perplexity import Target
from lfl_jax.text.tokenizers import Tokenizer


def record(item: Item, diverged: list[Diverged]) -> Record:
    """Both divergences, summed over the item's tokens, in nats."""
    # A long text is measured in several windows, each token in one of them.
    forward = sum(one.forward for one in diverged)
    reverse = sum(one.reverse for one in diverged)
    tokens = sum(one.tokens for one in diverged)
    return {
        "id": item.id,
        "cluster": item.cluster,
        "forward_kl": forward,
        "reverse_kl": reverse,
        "tokens": tokens,
    }


def prompt(target: Target, tokenizer: Tokenizer) -> list[int]:
    """What the base continues: a target's prompt, or the token that stands for none."""
    return prompt_ids(target.prompt, tokenizer) if target.prompt else [prefix_id(tokenizer)]


# Sums over the tokens of the texts together, as their NLL is.
FORWARD = Metric(
    name="forward_kl",
    field="forward_kl",
    label="KL(base || model)",
    section="divergence",
    weight="tokens",
    higher_is_better=False,
    **QUANTITY,
)
METRICS = (
    FORWARD,
    replace(FORWARD, name="reverse_kl", field="reverse_kl", label="KL(model || base)"),
)

SOURCE_KL = Task(
    name="source_kl",
    version=1,
    label="general text",
    items=perplexity.documents,
    method=Diverge(perplexity.document_requests, record),
    metrics=METRICS,
    details=perplexity.details,
)
TARGET_KL = Task(
    name="target_kl",
    version=1,
    label="held-out targets",
    items=perplexity.targets,
    method=Diverge(perplexity.target_requests, record),
    metrics=METRICS,
    interleaved=True,
    reads_source=True,
)
# The reverse divergence would have to be sampled from the model, so it is not among the metrics.
BASE_SAMPLE_KL = Task(
    name="base_sample_kl",
    version=1,
    label="the base's own answers",
    items=perplexity.targets,
    method=DivergeSampled(prompt, record),
    metrics=(
        FORWARD,
        replace(FORWARD, name="forward_kl_answer", weight=None, label="KL per answer"),
    ),
    interleaved=True,
    reads_source=True,
)
