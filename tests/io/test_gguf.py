"""GGUF weights: our layout, what quantisation does, and every damaged file refused in one line."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import tiny_gguf
from fixtures.tiny_gguf import D, F, H, K, L, P, V
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from mutate import LONG, SHORT, mutated

from lfl_jax import assets
from lfl_jax.core.sharding import make_rules
from lfl_jax.errors import UserError
from lfl_jax.io import gguf, gguf_file
from lfl_jax.io.gguf_config import model_config
from lfl_jax.io.gguf_file import Tensors
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.rope import FactorsRope, LinearRope, Llama3Rope, YarnRope
from lfl_jax.text import tokenizers


@pytest.fixture
def weights():
    return tiny_gguf.tensors()


RULES = make_rules(devices=jax.devices()[:1])


def config_of(path):
    return model_config(Tensors(path))


def params_of(path):
    """The parameters in float32, as numpy arrays."""
    tensors = Tensors(path)
    return jax.tree.map(np.asarray, gguf.load(tensors, model_config(tensors), RULES, "float32"))


def test_parameters_have_our_layout(tmp_path, weights):
    params = params_of(tiny_gguf.write(tmp_path / "m.gguf", weights))
    np.testing.assert_array_equal(params["embed"], weights["token_embd.weight"])
    np.testing.assert_array_equal(params["head"], weights["output.weight"])
    np.testing.assert_array_equal(params["final_norm"], weights["output_norm.weight"])
    names = {
        "v": "attn_v",
        "o": "attn_output",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "down": "ffn_down",
    }
    matrices = params["layers"]["attn"] | params["layers"]["mlp"]
    for layer in range(L):
        for ours, theirs in names.items():
            np.testing.assert_array_equal(
                matrices[ours][layer], weights[f"blk.{layer}.{theirs}.weight"].T
            )
        for ours in ("attn", "mlp"):
            theirs = weights[f"blk.{layer}.{'attn' if ours == 'attn' else 'ffn'}_norm.weight"]
            np.testing.assert_array_equal(params["layers"][f"{ours}_norm"][layer], theirs)


def test_parameters_are_those_the_model_declares(tmp_path, weights):
    path = tiny_gguf.write(tmp_path / "m.gguf", weights)
    declared = llama.specs(config_of(path))
    assert shapes(params_of(path)) == {path: spec.shape for path, spec in flat(declared).items()}


def flat(tree, path=""):
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, sub in tree.items() for k, v in flat(sub, f"{path}/{key}").items()}


def shapes(params):
    return {path: leaf.shape for path, leaf in flat(params).items() if leaf.dtype == np.float32}


@pytest.mark.parametrize("name", ["q", "k"])
def test_rope_pairs_are_brought_apart(tmp_path, weights, name):
    """llama.cpp rotates rows (0, 1), (2, 3), ... of a head; here it is (0, P/2), (1, P/2 + 1),
    ..."""
    params = params_of(tiny_gguf.write(tmp_path / "m.gguf", weights))
    for layer in range(L):
        theirs = weights[f"blk.{layer}.attn_{name}.weight"].reshape(-1, P, D)
        ours = params["layers"]["attn"][name][layer].T.reshape(-1, P, D)
        for i in range(P // 2):
            np.testing.assert_array_equal(ours[:, i], theirs[:, 2 * i])
            np.testing.assert_array_equal(ours[:, i + P // 2], theirs[:, 2 * i + 1])


def test_dimensions_of_the_metadata(tmp_path, weights):
    assert config_of(tiny_gguf.write(tmp_path / "m.gguf", weights)) == ModelConfig(
        vocab_size=V,
        d_model=D,
        n_layers=L,
        n_heads=H,
        n_kv_heads=K,
        head_dim=P,
        d_ff=F,
        rope_theta=5000.0,
        norm_eps=1e-5,
        tied=False,
        max_seq_len=64,
    )


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"rope.scaling.type": "none"}, None),
        ({"rope.scale_linear": 4.0}, LinearRope(4.0)),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, LinearRope(2.0)),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 8.0,
                "rope.scaling.original_context_length": 16,
            },
            YarnRope(8.0, 16, 1 + 0.1 * math.log(8)),
        ),
    ],
)
def test_rotary_scaling_of_the_metadata(tmp_path, metadata, expected):
    cfg = config_of(tiny_gguf.write(tmp_path / "m.gguf", **metadata))
    assert cfg.rope_scaling == expected


def test_the_factors_of_llama_3_are_its_rule_and_others_stay_as_they_are(tmp_path, weights):
    theta, rule = 500000.0, Llama3Rope(8.0, 1.0, 4.0, 8192)
    frequency = (theta ** (-np.arange(0, P, 2) / P)).astype(np.float32)
    for factors, expected in (
        (frequency / np.asarray(rule.scale(jnp.asarray(frequency), theta)), rule),
        (np.ones(P // 2), None),
        (np.array([1, 2, 3, 4]), FactorsRope((1.0, 2.0, 3.0, 4.0))),
    ):
        weights["rope_freqs.weight"] = factors.astype(np.float32)
        path = tiny_gguf.write(tmp_path / "m.gguf", weights, **{"rope.freq_base": theta})
        assert config_of(path).rope_scaling == expected


def test_a_window_of_the_metadata(tmp_path):
    for size, expected in ((7, 7), (0, None)):
        path = tiny_gguf.write(tmp_path / "m.gguf", **{"attention.sliding_window": size})
        assert config_of(path).window == expected


def test_tied_model_has_no_head(tmp_path):
    path = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.tensors(tied=True))
    assert config_of(path).tied
    assert "head" not in params_of(path)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_every_format_is_read_as_the_gguf_package_reads_it(tmp_path, weights, kind):
    type_ = GGMLQuantizationType[kind]
    tensors = Tensors(tiny_gguf.write(tmp_path / "m.gguf", weights, type_))
    assert tensors.quantisation() == (kind if kind.startswith("Q") else None)
    for name, weight in weights.items():
        stored = type_ if weight.ndim == 2 else GGMLQuantizationType.F32
        np.testing.assert_array_equal(tensors[name], dequantize(quantize(weight, stored), stored))
        assert tensors[name].dtype == np.float32
    # the format does lose something
    assert np.abs(tensors["output.weight"] - weights["output.weight"]).max() > 0


def test_chunks_fit_together(tmp_path, weights, monkeypatch):
    path = tiny_gguf.write(tmp_path / "m.gguf", weights, GGMLQuantizationType.Q4_1)
    expected = Tensors(path)["token_embd.weight"]
    monkeypatch.setattr(gguf_file, "CHUNK", 100)  # not a multiple of the block of 32
    np.testing.assert_array_equal(Tensors(path)["token_embd.weight"], expected)


def test_a_look_up_of_a_name_reads_no_tensor(tmp_path, weights, monkeypatch):
    tensors = Tensors(tiny_gguf.write(tmp_path / "m.gguf", weights))
    monkeypatch.setattr(Tensors, "__getitem__", lambda self, name: pytest.fail(f"read {name}"))
    assert "token_embd.weight" in tensors
    assert "rope_freqs.weight" not in tensors


class TestRefusals:
    """Each mistake is one UserError that says what is wrong."""

    def expect_refusal(self, path, match):
        with pytest.raises(UserError, match=match) as caught:
            params_of(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 2

    def test_no_file(self, tmp_path):
        self.expect_refusal(tmp_path / "absent.gguf", "no such GGUF file")

    @pytest.mark.parametrize(
        "content", [b"", b"GG", b"PK\x03\x04 a zip file", b"<html>not found</html>"]
    )
    def test_other_file(self, tmp_path, content):
        (tmp_path / "m.gguf").write_bytes(content)
        self.expect_refusal(tmp_path / "m.gguf", "not a GGUF file")

    def test_version(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"GGUF\x01\0\0\0" + bytes(64))
        self.expect_refusal(tmp_path / "m.gguf", "version 1 is not supported")

    def test_other_architecture(self, tmp_path):
        self.expect_refusal(
            tiny_gguf.write(tmp_path / "m.gguf", architecture="gemma"), "architecture 'gemma'; supp"
        )

    def test_missing_tensor(self, tmp_path, weights):
        del weights["blk.1.ffn_up.weight"]
        self.expect_refusal(
            tiny_gguf.write(tmp_path / "m.gguf", weights), "'blk.1.ffn_up.weight' is missing"
        )

    def test_unknown_tensor(self, tmp_path, weights):
        weights["blk.0.attn_sinks.weight"] = np.ones(H, np.float32)
        self.expect_refusal(
            tiny_gguf.write(tmp_path / "m.gguf", weights), "'blk.0.attn_sinks.weight' has no place"
        )

    def test_biases_of_one_layer_only(self, tmp_path, weights):
        weights["blk.0.attn_q.bias"] = np.ones(H * P, np.float32)
        self.expect_refusal(
            tiny_gguf.write(tmp_path / "m.gguf", weights), "'blk.0.attn_k.bias' is missing"
        )

    @pytest.mark.parametrize(
        "factors", [np.ones(3), np.array([1, 0, 1, 1]), np.array([1, np.nan, 1, 1])]
    )
    def test_factors_of_no_use(self, tmp_path, weights, factors):
        weights["rope_freqs.weight"] = factors.astype(np.float32)
        with pytest.raises(UserError, match="tensor 'rope_freqs.weight'"):
            params_of(tiny_gguf.write(tmp_path / "m.gguf", weights))

    def test_wrong_shape(self, tmp_path, weights):
        weights["blk.1.attn_k.weight"] = np.ones((H * P, D), np.float32)
        path = tiny_gguf.write(tmp_path / "m.gguf", weights)
        self.expect_refusal(
            path, r"'blk.1.attn_k.weight' has shape \(32, 32\); expected \(16, 32\) by the metadata"
        )

    @pytest.mark.parametrize(
        ("fields", "match"),
        [
            ({"expert_count": 8}, "expert_count = 8"),
            ({"rope.scaling.type": "longrope"}, "rotary scaling 'longrope' is not supported"),
            ({"rope.scaling.type": "linear"}, "'llama.rope.scaling.factor' is missing"),
            (
                {"rope.scaling.type": "linear", "rope.scaling.factor": 0.0},
                "factor' is 0.0; expected a positive",
            ),
            ({"rope.freq_base": 0.5}, "freq_base is 0.5; expected more than 1"),
            ({"rope.dimension_count": 4}, "rope.dimension_count = 4"),
            ({"attention.key_length": 7}, "heads of 7 dimensions"),
            ({"attention.head_count": 0}, "'llama.attention.head_count' is 0"),
            ({"block_count": None}, "'llama.block_count' is missing"),
            ({"block_count": 2.0}, "'llama.block_count' is a float, not a int"),
            ({"block_count": 2**32 - 1}, "4294967295 layers by the metadata, but only 21 tensors"),
            ({"feed_forward_length": 2**31}, "'blk.0.ffn_down.weight' has shape"),
        ],
    )
    def test_metadata(self, tmp_path, fields, match):
        self.expect_refusal(tiny_gguf.write(tmp_path / "m.gguf", **fields), match)

    def test_file_that_shrinks_after_opening(self, tmp_path):
        path = tmp_path / "m.gguf"
        tensors = Tensors(tiny_gguf.write(path))
        cfg = model_config(tensors)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(UserError, match="became shorter"):
            gguf.load(tensors, cfg, RULES, "float32")


def tensors_start(path):
    return min(info.offset for info in Tensors(path).metadata["GGUF.tensors"].values())


class TestDamage:
    """Whatever happens to the bytes, the answer is parameters or a UserError, and soon."""

    def test_every_truncation_is_refused(self, tmp_path):
        path = tmp_path / "m.gguf"
        tiny_gguf.write(path, kind=GGMLQuantizationType.Q8_0)
        data, header_end = path.read_bytes(), tensors_start(path)
        cuts = [*range(0, header_end, 17), *np.linspace(header_end, len(data) - 40, 30).astype(int)]
        for cut in cuts:
            path.write_bytes(data[:cut])
            with pytest.raises(UserError):
                params_of(path)

    def test_changed_bytes_raise_nothing_else(self, tmp_path):
        path = tmp_path / "m.gguf"
        tiny_gguf.write(path)
        data, header_end = np.fromfile(path, np.uint8), tensors_start(path)
        rng, refused = np.random.default_rng(0), 0
        for _ in range(200):
            changed = data.copy()
            at = rng.integers(4, header_end, rng.integers(1, 4))
            changed[at] = rng.choice([0, 1, 2, 8, 9, 127, 128, 255], len(at))
            changed.tofile(path)
            try:
                params_of(path)
            except UserError:
                refused += 1
        assert refused > 100


def test_smollm2_is_read_whole():
    """Sizes and a few numbers of the embedded model; tests/parity/compare_gguf.py compares every
    weight."""
    if not assets.is_cached("smollm2-135m"):
        pytest.skip("smollm2-135m is not fetched: run `python -m lfl_jax.fetch smollm2-135m`")
    path = assets.path("smollm2-135m", "model.gguf")
    assert Tensors(path).quantisation() == "Q4_1"
    cfg = config_of(path)
    assert (cfg.n_layers, cfg.n_kv_heads, cfg.rope_theta, cfg.tied) == (30, 3, 1e5, True)
    params = params_of(path)
    leaves = flat(params).values()
    assert sum(leaf.size for leaf in leaves) == 134_515_008
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert 0.05 < params["layers"]["mlp"]["up"].std() < 0.3


def check_mutations(tmp_path, draw):
    file = tmp_path / "m.gguf"
    if not file.exists():
        tiny_gguf.write(file, tiny_gguf.tensors())
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(mutated(draw, file.read_bytes(), within=4000))
    with contextlib.suppress(UserError):
        params_of(damaged)
    with contextlib.suppress(UserError):
        tokenizers.from_gguf(damaged)


@SHORT
@given(st.data())
def test_a_mutated_file_loads_or_is_refused(tmp_path, data):
    check_mutations(tmp_path, data.draw)


@pytest.mark.slow
@LONG
@given(st.data())
def test_thousands_of_mutated_files_load_or_are_refused(tmp_path, data):
    check_mutations(tmp_path, data.draw)
