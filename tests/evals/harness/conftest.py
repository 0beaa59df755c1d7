"""The harness, a tiny model, and tasks of our own for it."""

import json

import jax
import pytest
from evals.harness.shared import DOCS, SUITE
from helpers import adapter_for
from lfl_jax.configs import math_ift

from lfl_jax.config import Config
from lfl_jax.core.sharding import make_rules
from lfl_jax.evals import scorer
from lfl_jax.model import Model
from lfl_jax.run_setup import base_model
from lfl_jax.text.tokenizers import byte_tokenizer


@pytest.fixture(autouse=True)
def installed(request):
    """The harness, which the extra `eval` brings."""
    if "missing" not in request.node.name:
        pytest.importorskip(
            "lm_eval", reason="lm-eval is not installed: pip install 'lfl_jax[eval]'"
        )


@pytest.fixture(scope="module")
def tiny():
    """A random model that reads bytes, under an adapter that changes what it says."""
    base = base_model.load(Config.from_dict(math_ift.get_config("smoke")), make_rules())
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, base.model.params)
    model = Model(params=params, adapter=adapter_for(base.cfg, params))
    return (
        model,
        base.cfg,
        scorer.build(model, base.cfg, byte_tokenizer(), make_rules(), "tiny", generate_rows=4),
    )


@pytest.fixture
def suite(tmp_path):
    """Two tasks of our own, with their documents beside them."""
    folder = tmp_path / "suite"
    folder.mkdir()
    for name, task in SUITE.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS[name]))
        files = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "datasets")}
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": files,
            "test_split": "test",
        } | task
        (folder / f"{name}.yaml").write_text(json.dumps(whole))
    return folder


@pytest.fixture
def few_tasks(monkeypatch):
    """The harness's index without most of its 14000 tasks, whose files take it 8 seconds to
    read."""
    from lm_eval.tasks._index import TaskIndex

    everything = TaskIndex._iter_yaml_files
    few = lambda root: (  # noqa: E731
        f for f in everything(root) if root.name != "tasks" or f.parent.name in ("arc", "hellaswag")
    )
    monkeypatch.setattr(TaskIndex, "_iter_yaml_files", staticmethod(few))
