"""Every field of configs/base.py does something: a smoke run with another value leaves other
traces.

python -m pytest -m slow tests/test_every_option.py      10 minutes; the default run checks that no field is missing
"""

import hashlib
import json
from pathlib import Path

import pytest
from lfl_jax.configs import math_ift

from lfl_jax import train
from lfl_jax.config import Config, values

# field -> (another value, other fields that must be set, in both runs, for it to matter)
TRAPEZOID, LOOKS = {"optim.schedule": "trapezoid"}, {"eval.every": 1}
# The first step, of a warmup, changes nothing; the ones after it make the model worse.
WORSENS = {"optim.lr": 100.0, "optim.schedule": "constant", "optim.warmup_steps": 1}
UUIDS = {"data.source": "uuid"}
OWN = {
    "data.path": str(Path(__file__).parent / "fixtures/conversations.jsonl"),
    "data.template": "chatml",
}
OTHER: dict[str, tuple] = {
    "model.name": ("tiny-alike", {}),
    "model.path": ("models/other.gguf", {}),
    "model.tokenizer": ("models/tokenizer.json", {}),
    "model.init": ("pretrained", {}),
    "model.compute_dtype": ("bfloat16", {}),
    "model.base_dtype": ("bfloat16", {}),
    "model.remat": ("full", {}),
    "model.attention_dropout": (0.5, {}),
    "adapter.kind": ("dora", {}),
    "adapter.rank": (4, {}),
    "adapter.alpha": (5.0, {}),
    "adapter.dropout": (0.5, {}),
    "adapter.targets": (("q",), {}),
    "adapter.rank_pattern": (((r"layers/1/.*", 3),), {}),
    "adapter.alpha_pattern": (((r"layers/1/.*", 3.0),), {}),
    "adapter.init": ("a_zero", {}),
    "adapter.scaling": ("alpha/sqrt(rank)", {}),
    "adapter.mora_rounding": ("floor", {"adapter.kind": "mora", "adapter.rank": 3}),
    "adapter.dora_norm": ("input", {"adapter.kind": "dora"}),
    "adapter.dora_norm_gradient": (True, {"adapter.kind": "dora"}),
    "adapter.subspace_dim": (64, {"adapter.kind": "subspace"}),
    "adapter.path": ("/nowhere", {}),
    "adapter.over": ("/nowhere", {}),
    "adapter.start_config": ("0123456789ab", {}),
    "trainable": (("adapter/.*/b",), {}),
    "optim.name": ("lionw", {}),
    "optim.lr": (1e-2, {}),
    "optim.b1": (0.5, {}),
    "optim.b2": (0.5, {}),
    "optim.eps": (0.1, {}),
    "optim.weight_decay": (0.5, {}),
    "optim.clip": (1e-3, {"optim.eps": 0.1}),
    "optim.schedule": ("constant", {}),
    "optim.warmup_steps": (2, {}),
    "optim.warmup_fraction": (1.0, {}),
    "optim.final_fraction": (0.9, {}),
    "optim.cooldown_fraction": (0.9, TRAPEZOID),
    "optim.lora_plus": (16.0, {}),
    "penalty.l2": (1.0, {}),
    "penalty.non_target_kl": (1.0, {}),
    "train.steps": (2, {}),
    "train.tokens": (4096.0, {"train.steps": 0}),
    "train.branch_from": ("nowhere", {"optim.schedule": "trapezoid", "optim.warmup_steps": 1}),
    "train.epochs": (0.2, {"train.steps": 0}),
    "train.batch": (4, {}),
    "train.microbatch": (1, {}),
    "data.source": ("tfds:nowhere", {}),
    "data.path": ("nowhere.jsonl", {}),
    "data.size": (32, {}),
    "data.levels": ((1, 0, 0), {}),
    "data.seed": (5, {}),
    "data.world": (1, {"data.source": "lab_ift"}),
    "data.shared": (0.5, {"data.source": "lab_cpt"}),
    "data.seq_len": (400, {}),
    "data.template": ("alpaca", {}),
    "data.uuid_prompt": ("What belongs to {key}?", UUIDS),
    "data.uuid_hyphens": (True, UUIDS),
    "data.too_long": ("skip", {"data.seq_len": 300}),
    "data.pack_bins": (2, {}),
    "data.packing": ("concat", {}),
    "data.streams": (2, {"train.batch": 4}),
    "data.packing_ratio": (
        2.0,
        {"data.packing": "ratio", "data.pack_bins": 4, "data.seq_len": 600},
    ),
    "data.cross_document": ("attend", {}),
    "data.columns": ("prompt=nowhere,response=nowhere", OWN),
    "data.dev_path": ("nowhere.jsonl", {}),
    "data.test_path": ("nowhere.jsonl", {}),
    "data.shuffle_responses": (True, {}),
    "data.loss_turns": ("last", OWN),
    "data.end_token": ("<|bos|>", {}),
    "eval.tasks": (("source_nll:1",), {}),
    "eval.limit": (1, {}),
    "eval.base_tasks": (("source_test_shots:1",), {}),
    "eval.base_shots": (1, {"eval.base_tasks": ("source_test_shots:1",)}),
    "eval.every": (2, {}),
    "eval.every_tokens": (1024.0, {}),
    "eval.log_spaced": (2, {}),
    "eval.decontaminate": (False, {}),
    "eval.every_tasks": (("target_nll:1",), LOOKS),
    "eval.rows": (1, {}),
    "eval.seq_len": (40, {}),
    "eval.max_new_tokens": (4, {}),
    "eval.generate_rows": (1, {}),
    "eval.shots": (2, {"eval.tasks": ("gsm8k:1",)}),
    "eval.shots_from": ("lm_eval", {"eval.tasks": ("gsm8k:1",), "eval.shots": 1}),
    "eval.samples": (2, {"eval.tasks": ("humaneval:1",), "eval.temperature": 0.8}),
    "eval.temperature": (2.0, {"eval.tasks": ("humaneval:1",)}),
    "eval.top_p": (0.1, {"eval.tasks": ("humaneval:1",), "eval.temperature": 0.8}),
    "eval.allow_weak_sandbox": (True, {"eval.tasks": ("humaneval:1",)}),
    "eval.files": (("gsm8k-test=nowhere.jsonl",), {"eval.tasks": ("gsm8k:1",)}),
    "eval.source_text": ("README.md", {"eval.tasks": ("source_nll:1",)}),
    "checkpoint.every": (1, {"checkpoint.keep": 5}),
    "checkpoint.keep": (2, {"checkpoint.every": 1}),
    "checkpoint.best": ("nothing", {"checkpoint.every": 1, **WORSENS, **LOOKS}),
    "mesh.data": (2, {}),
    "mesh.fsdp": (2, {}),
    "mesh.tensor": (2, {}),
    "mesh.auto": (True, {}),
    "seed.data": (1, {}),
    "seed.init": (1, {}),
    "seed.dropout": (1, {"adapter.dropout": 0.5}),
    "seed.sample": (1, {}),
    "analysis.every": (1, {}),
    "analysis.modules": (("q",), {"analysis.every": 1}),
    "log.every": (2, {}),
    "log.tensorboard": (True, {}),
    "log.wandb": ("a-project", {}),
    "log.wandb_group": ("a-group", {"log.wandb": "a-project"}),
    "log.profile": ("2:3", {}),
}
NOT_HERE = {
    "mesh.auto": "one device has one mesh; tests/test_auto_mesh.py chooses for several",
    "log.wandb_group": "it is of what W&B keeps; tests/io/test_wandb_log.py reads that",
    "seed.sample": "evaluations decode greedily; tests/test_sample.py shows what it does",
    "model.remat": "recomputation changes memory alone; tests/models/test_llama.py shows that"
    " results stay",
    "eval.rows": "scores do not depend on the shape of a batch beyond rounding",
    "eval.generate_rows": "texts do not depend on the shape of a batch",
}
FIELDS = sorted(values.all_fields())


def test_every_field_is_here():
    assert sorted(OTHER) == FIELDS, (
        "a new field gets another value here, and a run that shows what it changes"
    )


def configured(changes):
    c = math_ift.get_config("smoke")
    c.train.steps, c.log.tensorboard = 3, False
    c.eval.tasks, c.eval.every_tasks = ("target_nll:2", "source_test:1"), ("target_nll:2",)
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        (c[section] if section else c)[field] = value
    return Config.from_dict(c)


def traces(changes, folder):
    """What a run leaves, without times, and without the config itself; or the line that says why it
    stops."""
    try:
        outcome = train.run(train.Run(configured(changes), folder))
    except Exception as error:
        return str(error)
    found = {
        p.relative_to(folder).as_posix(): ""
        for p in folder.rglob("*")
        if "checkpoints" not in p.parts
    }
    found |= {f"step {p.name}": "" for p in (folder / "checkpoints").iterdir()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [
        {k: v for k, v in x.items() if k not in ("time", "tokens_per_s")} for x in lines
    ]
    for file in (folder / "evals").rglob("*.jsonl"):
        found[file.name] = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    found["sizes"] = [outcome.facts[name] for name in ("trainable", "trainable_stored")]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


PLAIN: dict[str, str] = {}  # traces of runs without the field's other value, by what else was set


@pytest.mark.slow
@pytest.mark.parametrize("field", [name for name in FIELDS if name not in NOT_HERE])
def test_another_value_leaves_other_traces(field, tmp_path):
    value, also = OTHER[field]
    name = repr(also)
    if name not in PLAIN:
        PLAIN[name] = traces(also, tmp_path / "a")
    assert traces(also | {field: value}, tmp_path / "b") != PLAIN[name]
