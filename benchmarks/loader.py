"""How fast one process makes training batches: tokens per second of CPU time.

    python benchmarks/loader.py --tokenizer=tokenizer.model

For the rows, batch and packing of the paper's four configs, over generated text in place of theirs:
examples are tokenised, packed and put on the devices. Prints a line of JSON for each config.
--processes=8 measures one of 8 processes that share the work by config.data.streams=8.
"""

import argparse
import json
import time

import jax
from lfl_jax.configs import settings

from lfl_jax.config import Config
from lfl_jax.core import hosts
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.data import tokenized as tokens_of
from lfl_jax.data.loader import training_batches
from lfl_jax.data.sources import open_source
from lfl_jax.data.streams import MODEL_INPUTS, Streams
from lfl_jax.run_setup import base_model

# setting -> generated text of the same kind, and how much of it
SOURCES = {
    "math_ift": ("word_problems", 60_000),
    "code_ift": ("docstring_functions", 20_000),
    "math_cpt": ("math_text", 20_000),
    "code_cpt": ("python_source", 20_000),
}


def source_of(name: str, tokenizer: str) -> tuple[Config, tokens_of.TokenizedSource]:
    """A paper config over generated text, and this text."""
    values = settings.config(name, "paper", {})
    values.model.tokenizer, values.data.too_long = tokenizer, "truncate"
    values.data.source, values.data.size = SOURCES[name]
    config = Config.from_dict(values)
    # each example is tokenised whenever it is read, as of a corpus that is read once
    tokens_of.MAX_CACHED_TOKENS = 0
    source = open_source(config.data, "train", 0)
    return config, tokens_of.TokenizedSource(source, base_model.tokenizer(config), config.data)


def place(batch: dict, rules: Rules) -> float:
    """Put a batch on the devices; CPU seconds that it took."""
    start = time.process_time()
    for array in (batch[field] for field in MODEL_INPUTS):
        sharding = rules.sharding(("batch", "time"), array.shape)
        hosts.to_devices(array, sharding).block_until_ready()
    return time.process_time() - start


def measure(name: str, tokenizer: str, seconds: float, processes: int) -> dict:
    """CPU seconds of all threads of one process over the batches of about so many seconds."""
    config, tokenized = source_of(name, tokenizer)
    rules = make_rules(1, 1, 1, jax.devices()[:1])
    options = {"seed": 0, "prefetch": 1, "streams": Streams(processes)}
    stream = training_batches(tokenized, batch=config.train.batch, **options)

    tokens, placing = [], 0.0
    start = time.process_time()
    while time.process_time() - start < seconds:
        batch = next(stream)
        placing += place(batch, rules)
        tokens.append(int((batch["segment_ids"] > 0).sum()))
    total = time.process_time() - start
    stream.close()
    return {
        "config": f"configs/{name}.py:paper",
        "text": SOURCES[name][0],
        "processes": processes,
        "batches": len(tokens),
        "tokens_per_batch": round(sum(tokens) / len(tokens)),
        "tokens_per_cpu_second": round(sum(tokens) / total),
        "cpu_seconds_per_batch": round(total / len(tokens), 3),
        "of_it_onto_devices": round(placing / len(tokens), 3),
    }


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="", help="file or fetched name; the model's own")
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds for each config")
    parser.add_argument("--processes", type=int, default=1, help="that share the work")
    options = parser.parse_args()
    for name in SOURCES:
        found = measure(name, options.tokenizer, options.seconds, options.processes)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
