"""Spectra while a run trains: what is written when, for adapters and full finetuning, and resuming."""

import json

import numpy as np
import pytest
from lfl_jax.configs import math_ift

from lfl_jax import train
from lfl_jax.analysis import spectra, training_spectra
from lfl_jax.config import Config
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.io.metrics import MetricsWriter
from lfl_jax.run_setup import earlier_run


def config(variant="smoke", **changes):
    c = math_ift.get_config(variant)
    c.train.steps, c.log.tensorboard = 4, False
    c.eval.tasks, c.eval.every_tasks = ("target_nll:1",), ("target_nll:1",)
    for name, value in {"analysis.every": 3, **changes}.items():
        section, _, field = name.rpartition(".")
        (c[section] if section else c)[field] = value
    return Config.from_dict(c)


def finish(c, folder):
    train.run(train.Run(c, folder, quiet=True))
    return training_spectra.read(folder)


def test_spectra_of_an_adapter_are_those_of_its_checkpoint(tmp_path):
    records = finish(config(**{"analysis.modules": ("q", "layers/0/mlp/down")}), tmp_path)
    base, model, step = earlier_run.restore(tmp_path)
    n_layers = base.cfg.n_layers
    names = {f"layers/{layer}/attn/q" for layer in range(n_layers)} | {"layers/0/mlp/down"}
    assert {record["weight"] for record in records} == names
    # every third step, and after the last one
    assert [record["step"] for record in records] == [3] * len(names) + [4] * len(names)

    last = {record["weight"]: record for record in records if record["step"] == step}
    layer = model.adapter["layers"]["attn"]["q"]
    dw = np.asarray((layer.a[1] * layer.scale[1]) @ layer.b[1], np.float64)
    w = np.asarray(base.model.params["layers"]["attn"]["q"][1], np.float64)
    record, s = last["layers/1/attn/q"], np.linalg.svd(dw)[1]
    assert record["frobenius"] == pytest.approx(np.linalg.norm(dw), rel=1e-5)
    assert record["effective_rank"] == pytest.approx(
        spectra.effective_rank(s[: layer.a.shape[-1]]), rel=1e-3
    )
    assert record["relative_norm"] == pytest.approx(
        np.linalg.norm(dw) / np.linalg.norm(w), rel=1e-5
    )

    # their means stand beside the loss
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    means = {line["step"]: line["spectra/k90"] for line in lines if "spectra/k90" in line}
    assert means[4] == pytest.approx(np.mean([record["k90"] for record in last.values()]))
    assert list(means) == [3, 4]


def test_spectra_of_full_finetuning_are_against_the_base_that_was_donated(tmp_path):
    c = config("smoke,full", **{"analysis.modules": ("v",), "optim.lr": 1e-3})
    records = finish(c, tmp_path)
    base, model, _ = earlier_run.restore(tmp_path)
    after, before = (
        np.asarray(m.params["layers"]["attn"]["v"], np.float64) for m in (model, base.model)
    )
    for record in records[-base.cfg.n_layers :]:
        s = np.linalg.svd((after - before)[record["layer"]])[1]
        assert record["frobenius"] == pytest.approx(np.linalg.norm(s), rel=1e-3)
        assert record["k90"] == spectra.energy_rank(s) and record["method"] == "lapack"


def test_a_run_without_spectra_has_no_file_and_keeps_no_base(small_params):
    c = config(**{"analysis.every": 0}).analysis
    nothing = training_spectra.Spectra.of(c, 4, small_params, small_params)
    assert nothing.files == () and nothing.base == {} and not nothing.is_due(4)


def test_records_after_the_step_that_a_run_resumes_from_are_dropped(tmp_path):
    files = {"tensorboard": False, "further": (training_spectra.FILE,)}
    with MetricsWriter(tmp_path, **files) as writer:
        for step in (2, 4):
            writer.append(training_spectra.FILE, step, [{"k90": step}])
    with MetricsWriter(tmp_path, resume_step=3, **files) as writer:
        writer.append(training_spectra.FILE, 4, [{"k90": 5.0}])
    assert training_spectra.read(tmp_path) == [{"step": 2, "k90": 2}, {"step": 4, "k90": 5.0}]


def test_only_what_is_measured_is_copied(small, small_params):
    c = config(**{"analysis.modules": ("layers/1/attn/q",)}).analysis
    trains = small_params | {"embed": None}
    kept = training_spectra.Spectra.of(c, 4, small_params, trains).base
    assert kept["embed"] is small_params["embed"]
    assert isinstance(kept["layers"]["attn"]["q"], np.ndarray)
    shapes = [path for path, x in tree.items(kept) if not hasattr(x, "__array__")]
    assert "layers/attn/k" in shapes and "final_norm" in shapes and len(shapes) == 9


def test_what_has_no_spectrum_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(UserError, match="analysis.every is of weight changes, and bottleneck has"):
        finish(config(**{"adapter.kind": "lora+bottleneck"}), tmp_path)
    with pytest.raises(UserError, match="config.analysis.modules: 'query' matches no weight"):
        finish(config(**{"analysis.modules": ("query",)}), tmp_path)
    with pytest.raises(UserError, match="config.analysis.modules is empty"):
        config(**{"analysis.modules": ()})
    assert not list(tmp_path.iterdir())
