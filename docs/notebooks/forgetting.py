# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Two adapters, and what each makes the model forget
#
# Two LoRAs are trained on one base, SmolLM2-135M: one on word problems, one on Python functions.
# Then they are composed without further training, and the same held-out texts show what each
# composition has learned and what it has forgotten. It takes a minute or two on two CPU cores,
# and is a script: `python docs/notebooks/forgetting.py`. It needs `python -m lfl_jax.fetch
# smollm2-135m evals`.
#
# The training is far too short for a result; the mechanics are those of a study.

# %%
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lfl_jax
from lfl_jax import adapters, losses
from lfl_jax.assets import readers
from lfl_jax.data.sources import open_source
from lfl_jax.text.chat import TEMPLATES

# %% [markdown]
# ## Train
#
# `lfl_jax.run` is what `python -m lfl_jax.main` calls. Both runs have the same shapes, so the
# second reuses the compiled training step of the first.

# %%
FIELDS = {
    "train.steps": 10,
    "train.batch": 1,
    "data.seq_len": 256,
    "data.too_long": "skip",
    "optim.lr": 1e-3,
    "eval.tasks": ("target_nll:8",),
    "eval.base_tasks": (),
    "eval.every_tasks": (),
    "eval.decontaminate": False,
    "log.tensorboard": False,
}
configs = {
    "maths": lfl_jax.get_config("math_ift:r=8", **FIELDS, **{"data.levels": (1, 0, 0)}),
    "code": lfl_jax.get_config("code_ift:r=8", **FIELDS),
}
folder = tempfile.mkdtemp()
for name, config in configs.items():
    outcome = lfl_jax.run(config, f"{folder}/{name}", quiet=True)
    before, after = (row["estimate"] for row in outcome.to_rows()[:2])
    print(f"{name}: held-out targets {before:.3f} -> {after:.3f} nats/token")

# %% [markdown]
# ## Compose
#
# An adapter is a pytree beside the parameters. `add` puts both at every weight: their weight
# changes add. Routing weights are factors on the two, so one compiled program evaluates every
# composition of them, the base included.

# %%
params, cfg, tokenizer = lfl_jax.load("smollm2-135m")
trained = {name: lfl_jax.load_adapter(f"{folder}/{name}", params)[1] for name in configs}
both = adapters.add(trained["maths"], trained["code"])
size, _ = adapters.sizes(trained["maths"])
print(f"{adapters.member_count(both)} adapters of {size:,} weights each")

# %% [markdown]
# ## Measure
#
# Held-out examples of both sources, and general text that neither contains: the paragraphs that
# BoolQ asks about. A row is one text; the loss is on answers, and on all of a paragraph.

# %%
ROWS, LENGTH = 4, 160
plain = TEMPLATES["plain"]
texts = {}
for name, config in configs.items():
    held_out = open_source(config.data, "dev", seed=0).examples
    texts[name] = [plain.prompt_and_response(held_out[i].conversation) for i in range(ROWS)]
passages = dict.fromkeys(row["passage"] for row in readers.with_files({})("boolq"))
texts["general text"] = [("", text) for text in list(passages)[:ROWS]]


def rows_of(pairs):
    """(prompt, answer) pairs as a batch; weights are 1 where the target is of an answer."""
    tokens, weights = np.zeros((2, ROWS, LENGTH + 1), np.int32)
    for i, (prompt, answer) in enumerate(pairs):
        start = tokenizer.encode(prompt) or [tokenizer.eos_id]
        ids = [*start, *tokenizer.encode_continuation(answer), tokenizer.eos_id][: LENGTH + 1]
        tokens[i, : len(ids)], weights[i, len(start) : len(ids)] = ids, 1
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": weights[:, 1:].astype(np.float32),
        "positions": np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
        "segment_ids": np.ones((ROWS, LENGTH), np.int32),
    }


batches = {name: rows_of(pairs) for name, pairs in texts.items()}


@jax.jit
def nll(params, adapter, batch, routing):
    """Nats per target token; routing (1, M) is a factor on each adapter."""
    total = losses.nll_sum(params, adapter, batch, cfg, routing=routing)
    return total / jnp.sum(batch["weights"])


def measured(maths, code, names=tuple(batches)):
    """Nats per token of the texts with these factors on the two adapters."""
    routing = jnp.array([[maths, code]])
    return {name: float(nll(params, both, batches[name], routing)) for name in names}


# %% [markdown]
# Lower is better. Each adapter learns its own source, and adding both keeps most of what each has
# learned. A factor of -1 takes the adapter's change off the base, which unlearns what the base
# could do.

# %%
compositions = {
    "base": (0.0, 0.0),
    "maths": (1.0, 0.0),
    "code": (0.0, 1.0),
    "maths + code": (1.0, 1.0),
    "half of each": (0.5, 0.5),
    "- maths": (-1.0, 0.0),
}
print(f"{'nats per token':16}" + "".join(f"{name:>14}" for name in texts))
scores = {name: measured(*factors) for name, factors in compositions.items()}
for name, score in scores.items():
    print(f"{name:16}" + "".join(f"{score[text]:14.3f}" for text in texts))

# %% [markdown]
# ## Learning against forgetting
#
# Scaling a finished adapter moves along one curve from the base (0) to the tuned model (1) and
# beyond, without training.

# %%
factors = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
curve = [measured(factor, 0.0, ("maths", "general text")) for factor in factors]
learned = [curve[0]["maths"] - point["maths"] for point in curve]
forgotten = [point["general text"] - curve[0]["general text"] for point in curve]

figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
axes.plot(learned, forgotten, "o-", color="tab:orange")
for factor, x, y in zip(factors, learned, forgotten, strict=True):
    axes.annotate(f" {factor:g}", (x, y), va="top")
axes.set(xlabel="learned: decrease on word problems", ylabel="forgotten: increase on general text")
axes.set_title("nats per token, by the factor on the adapter", fontsize="medium")
plt.show()

# %% [markdown]
# ## Merge
#
# Merged, the adapter is gone and the weights are others: the same function, up to rounding. One
# LoRA of half the rank keeps most of the change.

# %%
merged = adapters.merge(trained["maths"], params)
small, _ = adapters.truncate(trained["maths"], params, 4)
weights = batches["maths"]["weights"].sum()
for name, model, adapter in (("merged", merged, {}), ("rank 4", params, small)):
    total = losses.nll_sum(model, adapter, batches["maths"], cfg)
    print(f"{name}: {float(total / weights):.3f} nats/token on word problems")
