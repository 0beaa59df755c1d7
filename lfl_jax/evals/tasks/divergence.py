"""Divergence from the base: KL of next-token distributions, on held-out targets and general text.

`target_kl` reads the texts of `target_nll` and measures at the positions that predict the response,
`source_kl` those of `source_nll`, at all positions (perplexity.py shows both). The base reads the
same ids, so nothing is sampled: this is the divergence under teacher forcing.

Metrics: forward_kl (main) is KL(base || model), reverse_kl KL(model || base), over the full
vocabulary, in nats per token. Records hold the sums over an item's tokens. A base, and a model with
an identity adapter, has exactly 0.
"""

from dataclasses import replace

from lfl_jax.evals.batching import Diverged
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.task import Diverge, Item, Record, Task
from lfl_jax.evals.tasks import perplexity


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
