"""`python -m lfl_jax.analyze`: its table, page and files, published checkpoints, its refusals."""

import contextlib
import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for
from hub_server import Repository, in_place_of_the_hub

import lfl_jax
from lfl_jax import adapters, analyze, assets
from lfl_jax.analysis import checkpoints
from lfl_jax.core import spec
from lfl_jax.errors import UserError, entry
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.report.analysis import figures as drawing
from lfl_jax.text.tokenizers import from_folder

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
pytestmark = pytest.mark.usefixtures("without_figures")
RANK, LAYERS = 4, 2
FIGURES = drawing.FIGURES


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    """A base, two LoRA of it as PEFT folders, and the first of them merged."""
    place = tmp_path_factory.mktemp("analyze")
    tokenizer = from_folder(request.config.rootpath / "tests" / "fixtures" / "tiny_llama")
    cfg = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, n_layers=LAYERS, n_heads=4, n_kv_heads=2,
        head_dim=8, d_ff=48, tied=True, max_seq_len=64,
    )  # fmt: skip
    params = spec.init(llama.specs(cfg), jax.random.key(0))
    lfl_jax.save(place / "base", params, cfg, tokenizer, dtype="float32")
    for seed in (1, 2):
        adapter = adapter_for(cfg, params, rank=RANK, seed=seed)
        lfl_jax.save_adapter(place / f"lora{seed}", adapter, params, base_name="org/base")
        if seed == 1:
            merged = adapters.merge(adapter, params, jnp.float32)
            lfl_jax.save(place / "tuned", merged, cfg, tokenizer, dtype="float32")
    return place


@pytest.fixture
def without_figures(monkeypatch):
    """Figures take most of the time of a small command; tests/report has those of each figure."""
    monkeypatch.setattr(drawing, "FIGURES", {})


def analysed(capsys, *options):
    """{weight: its record} of what a command prints as JSON, and everything else in it."""
    analyze.main(["analyze", *map(str, options), "--json"])
    printed = json.loads(capsys.readouterr().out)
    return {record["weight"]: record for record in printed["weights"]}, printed


def singular_values(place, name):
    """Of one weight's change, from the two folders, by numpy alone."""
    from safetensors.numpy import load_file

    base, tuned = (load_file(place / x / "model.safetensors") for x in ("base", "tuned"))
    return np.linalg.svd(tuned[name].astype(float) - base[name].astype(float))[1]


def test_an_adapter_is_a_table_a_page_and_a_parquet_file(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drawing, "FIGURES", {name: FIGURES[name] for name in ("k90", "similarity")})
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    analyze.main(["analyze", f"--adapter={folder / 'lora1'}", f"--base={folder / 'base'}",
                  f"--out={out}"])  # fmt: skip
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed.splitlines() if line.strip()]
    assert {"q", "k", "v", "o", "gate", "up", "down", "all"} <= set(rows)
    assert f"written to {out / 'index.html'}" in printed
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 2 and "k90" in page and "prefers-color-scheme: dark" in page
    # Nothing is loaded from anywhere.
    assert "src=" not in page and 'href="http' not in page and "url(http" not in page

    table = pq.read_table(out / "weights.parquet").to_pylist()
    assert len(table) == 7 * LAYERS
    first = table[0]
    assert first["weight"] == "layers/0/attn/q" and first["factors_rank"] == RANK
    s = singular_values(folder, "model.layers.0.self_attn.q_proj.weight")
    np.testing.assert_allclose(first["singular_values"], s[:RANK], rtol=1e-4)
    np.testing.assert_allclose(first["frobenius"], np.linalg.norm(s), rtol=1e-4)
    shares = np.cumsum(s**2) / np.sum(s**2)
    assert first["k90"] == np.argmax(shares >= 0.9) + 1
    assert len(first["base_singular_values"]) == 32 and len(first["cosines"]) == 10
    assert (out / "figures" / "k90.png").exists() and (out / "tables" / "by_module.csv").exists()


def test_a_merged_model_says_what_its_adapter_says(folder, tmp_path, capsys):
    common = (f"--base={folder / 'base'}", f"--out={tmp_path / 'out'}", f"--directions={RANK}")
    of_adapter, _ = analysed(capsys, f"--adapter={folder / 'lora1'}", *common)
    of_model, _ = analysed(capsys, f"--tuned={folder / 'tuned'}", *common)
    assert of_adapter.keys() == of_model.keys()
    for name, record in of_adapter.items():
        assert record["factors_rank"] == RANK and of_model[name]["factors_rank"] is None
        for measure in ("k90", "stable_rank", "intruders", "amplification", "relative_norm"):
            assert record[measure] == pytest.approx(of_model[name][measure], rel=1e-3), measure
        # Its null is of its rank, and that of a dense change of the whole size.
        assert record["k90_null"] <= RANK < of_model[name]["k90_null"]


def test_an_adapter_over_a_large_base_is_measured_without_it_in_memory(
    folder, tmp_path, monkeypatch, capsys
):
    options = (f"--adapter={folder / 'lora1'}", f"--base={folder / 'base'}", f"--out={tmp_path}")
    in_memory, _ = analysed(capsys, *options)
    monkeypatch.setattr(checkpoints, "LARGE", 0)
    monkeypatch.setattr(checkpoints.Base, "loaded", property(lambda base: pytest.fail("loaded")))
    streamed, _ = analysed(capsys, *options)
    for name, record in in_memory.items():
        assert streamed[name] == pytest.approx(record), name


def test_weights_are_chosen_and_a_change_of_zero_is_said(folder, tmp_path, capsys):
    model = shutil.copytree(folder / "tuned", tmp_path / "model")
    from safetensors.numpy import load_file, save_file

    before, after = (load_file(x / "model.safetensors") for x in (folder / "base", model))
    after |= {name: x for name, x in before.items() if "layers.1." in name}
    after["model.norm.weight"] = after["model.norm.weight"] * 2
    save_file(after, model / "model.safetensors")
    options = (f"--tuned={model}", f"--base={folder / 'base'}", f"--out={tmp_path / 'out'}")
    weights, printed = analysed(capsys, *options, "--modules=q|mlp/up")
    assert set(weights) == {"layers/0/attn/q", "layers/0/mlp/up"}
    notes = " ".join(printed["notes"])
    assert "2 weights did not change at all" in notes and "layers/1/attn/q" in notes
    assert "final_norm" in notes


def test_the_same_change_is_all_common_and_another_is_at_the_null(folder, tmp_path, capsys):
    for other, expected in (("lora1", 1.0), ("lora2", RANK / 32)):
        out = tmp_path / other
        analysed(capsys, f"--adapter={folder / 'lora1'}", f"--base={folder / 'base'}",
                 f"--compare={folder / other}", f"--out={out}", "--modules=q")  # fmt: skip
        with (out / "tables" / "compared.csv").open() as file:
            rows = {row[1]: row[2:] for row in csv.reader(file) if row[0] == "q"}
        inputs, null, outputs, _ = map(float, rows[str(RANK)])
        assert inputs == pytest.approx(expected, abs=1e-3 if expected == 1 else 0.12)
        assert outputs == pytest.approx(expected, abs=1e-3 if expected == 1 else 0.12)
        assert null == pytest.approx(RANK / 32)


def test_several_checkpoints_are_compared_by_amount(folder, tmp_path, capsys):
    names = f"{folder / 'lora1'},{folder / 'lora2'}"
    analyze.main(["analyze", f"--adapter={names}", f"--base={folder / 'base'}",
                  f"--out={tmp_path}", "--modules=q"])  # fmt: skip
    assert capsys.readouterr().out.count("lora1") >= 1
    table = (tmp_path / "tables" / "by_checkpoint.csv").read_text()
    assert str(folder / "lora1") in table and str(folder / "lora2") in table


def test_without_the_base_there_are_ranks_and_no_intruders(folder, tmp_path, capsys):
    options = (f"--adapter={folder / 'lora1'}", f"--base={folder / 'base'}", f"--out={tmp_path}")
    with_base, _ = analysed(capsys, *options)
    without, printed = analysed(capsys, *options, "--without_base")
    for name, record in without.items():
        assert record["k90"] == with_base[name]["k90"]
        assert record["intruders"] is None and record["relative_norm"] is None
    assert "W was not read" in " ".join(printed["notes"])


# -- published checkpoints

PUBLISHED = "LoRA-TMLR-2024/metamath-lora-rank-16-alpha-32"
BASE_COMMIT = assets.manifest()["llama2-7b"].origin.revision


@contextlib.contextmanager
def hub(folder, monkeypatch, cache, adapter, gated=False):
    def read(name):
        return {file.name: file.read_bytes() for file in (folder / name).iterdir()}

    base = Repository(read("base"), commit=BASE_COMMIT, gated=gated)
    tuned = Repository(read(adapter), branches=("main", "1-epoch"))
    repositories = {"meta-llama/Llama-2-7b-hf": base, PUBLISHED: tuned}
    with in_place_of_the_hub(repositories, monkeypatch, cache) as server:
        yield server


@pytest.fixture
def rank_16(folder, tmp_path):
    """A folder as the published one of its name: of rank 16."""
    params, cfg, _ = lfl_jax.load(folder / "base")
    adapter = adapter_for(cfg, params, rank=16, seed=3)
    lfl_jax.save_adapter(tmp_path / "published", adapter, params)
    return tmp_path / "published"


def test_a_published_checkpoint_is_fetched_by_its_name(
    folder, rank_16, tmp_path, monkeypatch, capsys
):
    name = "lfl:metamath-lora-rank-16-alpha-32"
    with hub(folder, monkeypatch, tmp_path / "cache", rank_16) as server:
        weights, printed = analysed(capsys, f"{name}@1-epoch", name, f"--out={tmp_path / 'out'}")
    assert printed["base"].endswith("llama2-7b") and len(printed["weights"]) == 2 * 7 * LAYERS
    assert {x["checkpoint"] for x in printed["weights"]} == {f"{name}@1-epoch", name}
    assert weights["layers/0/attn/q"]["factors_rank"] == 16
    assert any("1-epoch" in request for request in server.requests)
    # A second command downloads nothing.
    asked = len(server.requests)
    analysed(capsys, name, f"--out={tmp_path / 'out'}")
    assert len(server.requests) == asked


def test_a_gated_base_is_said_with_what_to_do(folder, rank_16, tmp_path, monkeypatch):
    options = ["analyze", "lfl:metamath-lora-rank-16-alpha-32", f"--out={tmp_path / 'out'}"]
    with (
        hub(folder, monkeypatch, tmp_path / "cache", rank_16, gated=True),
        pytest.raises(UserError, match="llama2-7b: meta-llama/Llama-2-7b-hf is gated"),
    ):
        analyze.main(options)
    assert not (tmp_path / "out").exists()


def test_a_published_adapter_of_another_rank_than_its_name_is_refused(
    folder, tmp_path, monkeypatch
):
    options = ["analyze", "lfl:metamath-lora-rank-16-alpha-32", f"--out={tmp_path / 'out'}"]
    with (
        hub(folder, monkeypatch, tmp_path / "cache", "lora1"),
        pytest.raises(UserError, match="its adapter has rank 4, its name says 16"),
    ):
        analyze.main(options)


# -- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --run=DIR"),
        (["--run=x", "--adapter=y"], "give one of --run=DIR"),
        (["--run={tmp}/nowhere"], "not the directory of a run"),
        (["--run={tmp}/nowhere", "--steps=all"], "not the directory of a run"),
        (["--adapter={lora}"], "also needs --base=PATH"),
        (["--adapter={tmp}", "--base={base}"], "no adapter here"),
        (["--adapter={lora}", "--base={tmp}/nowhere"], "no such model"),
        (["--adapter={lora}", "--base={base}", "--modules=z"], "names no weight"),
        (["--adapter={lora}", "--base={base}", "--directions=5"], "rank 4; expected 1 to 4"),
        (["--tuned={tuned}", "--base={base}", "--directions=40"], "32 x 32; expected 1 to 32"),
        (["--tuned={base}", "--base={base}"], "nothing changed"),
        (["--base={base}", "org/base"], "expected a published checkpoint"),
        (["--adapter={lora}", "--base={base}", "--steps=all"], "is of a run"),
    ],
)
def test_a_mistake_is_one_clear_line(folder, tmp_path, options, message, capsys):
    places = {name: folder / at for name, at in
              {"lora": "lora1", "base": "base", "tuned": "tuned"}.items()}  # fmt: skip
    given = [option.format(tmp=tmp_path, **places) for option in options]
    with pytest.raises(SystemExit, match="2"):
        entry(analyze.main, ["analyze", *given, f"--out={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert message in error and error.count("error:") == 1 and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def other(folder, tmp_path):
    """A function that writes the base's model with other numbers, or of another shape."""

    def write(**changes):
        _, cfg, tokenizer = lfl_jax.load(folder / "base")
        cfg = dataclasses.replace(cfg, **changes)
        written = spec.init(llama.specs(cfg), jax.random.key(9))
        lfl_jax.save(tmp_path / "other", written, cfg, tokenizer, dtype="float32")
        return tmp_path / "other"

    return write


def test_models_of_other_shapes_or_vocabularies_are_refused(folder, other):
    command, words = (
        ["analyze", f"--base={folder / 'base'}"],
        lfl_jax.load(folder / "base")[1].vocab_size,
    )
    with pytest.raises(UserError, match="vocabulary of"):
        analyze.main([*command, f"--tuned={other(vocab_size=words + 8)}"])
    with pytest.raises(UserError, match="not of one model"):
        analyze.main([*command, f"--tuned={other(d_ff=64)}"])


def test_an_adapter_over_another_base_is_refused(folder, other):
    with pytest.raises(UserError, match="made for another base"):
        analyze.main(["analyze", f"--adapter={folder / 'lora1'}", f"--base={other()}"])


def test_an_adapter_that_names_another_base_is_flagged(folder, other, tmp_path, capsys):
    place = shutil.copytree(folder / "lora1", tmp_path / "renamed")
    config = json.loads((place / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "someone/elses"
    (place / "adapter_config.json").write_text(json.dumps(config))
    options = (f"--adapter={place}", f"--base={folder / 'base'}", f"--out={tmp_path / 'out'}")
    _, printed = analysed(capsys, *options)
    assert "was trained over someone/elses" in printed["flags"][0]


def test_a_weight_that_is_not_finite_is_named(folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(folder / "tuned", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(UserError, match=r"layers/1/mlp/up: its change has values that are not fin"):
        analyze.main(["analyze", f"--tuned={model}", f"--base={folder / 'base'}", "--modules=up"])
