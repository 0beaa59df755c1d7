"""`python -m lfl_jax.analyze --run`: steps, quantised bases, the text of a run."""

import json

import jax
import pytest
from helpers import moved
from lfl_jax.configs import math_ift

from lfl_jax import adapters, analyze
from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.core.sharding import make_rules
from lfl_jax.errors import UserError, entry
from lfl_jax.io.checkpoint import Checkpoints
from lfl_jax.models import llama
from lfl_jax.report.analysis import figures as drawing
from lfl_jax.run_setup import base_model, earlier_run

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
STEPS = (1, 3)


def saved_run(folder, words="smoke"):
    """The directory of a run that trained nothing: its adapter is another one at every step."""
    config = Config.from_dict(math_ift.get_config(words))
    files.write_json(folder / "config.json", {"hash": config.hash(), "config": config.values()})
    base = base_model.load(config, make_rules())
    metadata = {
        "base_fingerprint": base.origin.fingerprint,
        "shape": earlier_run.shape_fields(base.cfg),
    }
    specs = adapters.specs(llama.specs(base.cfg), config.adapter) if config.adapter.kinds else {}
    with Checkpoints(folder / "checkpoints", keep_latest=len(STEPS)) as saved:
        for step in STEPS:
            adapter, params = {}, base.model.params
            if specs:
                adapter = moved(adapters.init(specs, params, jax.random.key(step)), step)
                params = {}
            params = jax.tree.map(lambda x, step=step: x * (1 + 0.01 * step), params)
            state = {"adapter": adapter, "params": params}
            saved.save(step, state, iterator_state={}, metrics={}, metadata=metadata)
    return folder


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Figures take most of the time of a small command; tests/report has those of each figure."""
    monkeypatch.setattr(drawing, "FIGURES", {})


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("lora") / "run")


def analysed(capsys, *options):
    analyze.main(["analyze", *map(str, options), "--json"])
    return json.loads(capsys.readouterr().out)


def test_all_steps_of_a_run_in_the_order_of_training(lora, tmp_path, capsys):
    printed = analysed(capsys, f"--run={lora}", "--steps=all", "--modules=q")
    labels = list(dict.fromkeys(record["checkpoint"] for record in printed["weights"]))
    assert labels == ["step 1", "step 3"]
    amounts = {record["checkpoint"]: record["amount"] for record in printed["weights"]}
    assert amounts["step 3"] == 3 * amounts["step 1"] > 0
    # The page goes into the run's folder.
    assert "step 1" in (lora / "analysis" / "index.html").read_text()
    one = analysed(capsys, f"--run={lora}", "--step=1", "--modules=q", f"--out={tmp_path}")
    first = [record for record in printed["weights"] if record["checkpoint"] == "step 1"]
    assert one["weights"] == first
    assert analysed(capsys, f"--run={lora}", "--steps=3", "--modules=q", f"--out={tmp_path}") == (
        analysed(capsys, f"--run={lora}", "--modules=q", f"--out={tmp_path}")
    )


def test_a_full_run_has_changed_more_than_its_linear_weights(tmp_path, capsys):
    printed = analysed(capsys, f"--run={saved_run(tmp_path / 'run', 'smoke,full')}")
    record = printed["weights"][0]
    # Every weight was scaled: dW is W, times .03.
    assert record["relative_norm"] == pytest.approx(0.03, rel=1e-3)
    assert record["factors_rank"] is None and record["k90_one_step"] > 0
    assert record["direction_change"] == pytest.approx(0, abs=1e-9)
    assert record["similarity"] == pytest.approx(1, abs=1e-3)
    assert "embed" in printed["other_parameters"]["step 3"]


def test_a_quantised_base_and_its_original_are_both_named(tmp_path, capsys):
    run = saved_run(tmp_path / "run", "smoke,qlora")
    # What was quantised in memory is read from the files, and random weights have none to read.
    printed = analysed(capsys, f"--run={run}", "--modules=q")
    labels = list(dict.fromkeys(record["checkpoint"] for record in printed["weights"]))
    assert labels == ["step 3, against the original", "step 3, against the base in nf4"]
    original, quantised = (
        next(record for record in printed["weights"] if record["checkpoint"] == label)
        for label in labels
    )
    assert quantised["factors_rank"] and original["factors_rank"] is None
    # What NF4 lost has every direction: it is a part of dW against the original alone.
    assert original["effective_rank"] > quantised["effective_rank"] + 1
    assert "quantised to nf4" in printed["flags"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--step=2"], "no checkpoint of step 2"),
        (["--steps=1,x"], "expected all, or steps such as"),
        (["--base=x"], "a run knows its base"),
        (["--step=1", "--steps=all"], "either --step or --steps"),
    ],
)
def test_a_mistake_is_one_clear_line(lora, tmp_path, options, message, capsys):
    words = ["analyze", f"--run={lora}", *options, f"--out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit, match="2"):
        entry(analyze.main, words)
    error = capsys.readouterr().err
    assert message in error and error.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_over_another_base_is_not_compared(lora, tmp_path):
    other = saved_run(tmp_path / "other", "smoke,qlora")
    with pytest.raises(UserError, match="belongs to base"):
        analyze.main(["analyze", f"--run={lora}", f"--compare={other}", "--modules=q"])


@pytest.mark.slow
def test_the_tokens_of_a_text_are_scored_by_both_models(lora, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("Daniela has 12 cards.\n\nOn Monday she buys 7 more in Paris.\n")
    printed = analysed(capsys, f"--run={lora}", f"--text={text}", f"--out={tmp_path / 'out'}")
    assert printed["tokens"]["total"]["tokens"] > 20
    assert "tokens" in {file.stem for file in (tmp_path / "out" / "tables").iterdir()}
    assert "number" in (tmp_path / "out" / "tables" / "tokens.csv").read_text()
