"""How far a run's target is from what its base was scored on as general text, by their tokens.

The target is the responses of up to 2000 held-out examples, and the source all of the text of
source_nll, both as the model is given them, without BOS and EOS. A run's seed and method change
neither.
"""

import dataclasses
import itertools

from lfl_jax.analysis import unigrams
from lfl_jax.analysis.unigrams import Divergence
from lfl_jax.config import Config
from lfl_jax.evals import inputs
from lfl_jax.evals.tasks import perplexity
from lfl_jax.run_setup import base_model
from lfl_jax.run_setup.shared import Shared


def measure(config: Config, shared: Shared) -> Divergence:
    """Of a run's config; runs of one target share it."""
    return shared.part("target distance", key(config), lambda: _measure(config, shared))


def key(config: Config) -> tuple[object, ...]:
    """Everything that it depends on."""
    generated = config.seed.data if config.data.seed is None else config.data.seed
    text = (config.eval.source_text, config.eval.files)
    return (repr(config.data), generated, *text, base_model.tokenizer_key(config))


def _measure(config: Config, shared: Shared) -> Divergence:
    tokenizer = base_model.tokenizer(config, shared)
    # All held-out examples, however few are evaluated.
    e = dataclasses.replace(config.eval, tasks=("target_nll",), base_tasks=(), limit=None)
    texts = inputs.from_config(dataclasses.replace(config, eval=e))
    # A response goes on from its prompt; a text of its own begins with itself.
    target = [
        tokenizer.encode_continuation(one.response)
        if one.prompt
        else tokenizer.encode(one.response)
        for one in perplexity.targets(texts)
    ]
    source = [tokenizer.encode(one.text) for one in perplexity.documents(texts)]
    return unigrams.divergence(*(list(itertools.chain(*ids)) for ids in (target, source)))
