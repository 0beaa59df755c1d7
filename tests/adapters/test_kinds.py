"""Each further kind against a plain restatement of its paper's formula."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax import adapters
from lfl_jax.adapters import mora, project
from lfl_jax.adapters.bottleneck import Bottleneck
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.ia3 import IA3
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.placement import Placement, placements
from lfl_jax.adapters.site import Site
from lfl_jax.config import AdapterConfig
from lfl_jax.errors import UserError
from lfl_jax.models import llama

RNG = np.random.default_rng(0)
ONE = jnp.ones(1)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def out(x, w, layer):
    return np.asarray(project(jnp.array(x), (Site(jnp.array(w), layer),))[0])


def plain_mora(kind, m, fan_in, fan_out):
    """dW (I, O) entry by entry: x_i contributes through the squares' rows, outputs read its
    columns."""
    size, dw = len(m), np.zeros((fan_in, fan_out))
    chunks = -(-fan_in // size)
    each, more = divmod(fan_in, size)
    starts = np.cumsum([0] + [each + (g < more) for g in range(size)])
    if kind.startswith("mora_sharing"):
        which = int(kind[-1])
        for o in range(fan_out):
            column = o % size if which in (1, 3) else o // -(-fan_out // size)
            for i in range(chunks * size if which in (1, 4) else fan_in):
                row = i % size if which in (1, 4) else int(np.searchsorted(starts, i, "right")) - 1
                dw[i if i < fan_in else i - fan_in, o] += m[row, column]
    elif kind == "mora_truncation":
        dw[:size, :size] = m
    else:
        for o in range(fan_out):
            chunk, column = (o % (chunks * size)) // size, o % size
            rotation = np.eye(size)
            if kind == "mora":
                half = size // 2
                for j in range(half):
                    angle = chunk * 10000.0 ** (-2 * j / size)
                    rotation[j, j], rotation[j, j + half] = np.cos(angle), -np.sin(angle)
                    rotation[j + half, j], rotation[j + half, j + half] = (
                        np.sin(angle),
                        np.cos(angle),
                    )
            for row in range(size):
                i = chunk * size + row
                dw[i if i < fan_in else i - fan_in, o] += (rotation.T @ m)[row, column]
    return dw


@pytest.mark.parametrize("shape", [(24, 16), (22, 15), (12, 40), (17, 9)])
@pytest.mark.parametrize("kind", mora.OPERATORS)
def test_mora_is_its_operator_and_its_weight_change(kind, shape):
    fan_in, fan_out = shape
    m, w, x = draw(6, 6), draw(*shape), draw(2, 3, fan_in)
    layer = mora.OPERATORS[kind](jnp.array(m), 2 * ONE)
    wanted = 2 * plain_mora(kind, m, fan_in, fan_out)
    np.testing.assert_allclose(layer.delta(jnp.array(w)), wanted, atol=1e-5)
    np.testing.assert_allclose(out(x, w, layer) - x @ w, x @ wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("fan_in", "fan_out", "rank", "rounding", "even", "size"),
    [
        (4096, 4096, 8, "nearest", False, 256),
        (4096, 4096, 256, "nearest", False, 1448),
        (11008, 4096, 8, "nearest", False, 348),
        (11008, 4096, 8, "floor", False, 347),
        (11008, 4096, 8, "floor", True, 346),
    ],
)
def test_moras_square_has_the_papers_size(fan_in, fan_out, rank, rounding, even, size):
    assert mora.square_rank(fan_in, fan_out, rank, rounding, even) == size


def test_mora_of_a_rank_too_large_is_refused(small, small_params):
    with pytest.raises(
        UserError, match=r"mora: rank 30 means a square of 4\d for a weight .32, 32."
    ):
        adapter_for(small, small_params, "mora", rank=30, targets=("q",))


def test_ia3_scales_outputs_and_the_input_of_down():
    w, x, factor = draw(6, 5), draw(2, 3, 6), draw(5)
    layer = IA3(inputs=None, outputs=jnp.array(factor), gain=ONE)
    np.testing.assert_allclose(out(x, w, layer), (x @ w) * factor, rtol=1e-4, atol=1e-5)
    factor = draw(6)
    layer = IA3(inputs=jnp.array(factor), outputs=None, gain=ONE)
    np.testing.assert_allclose(out(x, w, layer), (x * factor) @ w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.delta(jnp.array(w)), np.diag(factor) @ w - w, atol=1e-5)


def test_ia3_stands_at_the_input_of_down_only(small, small_params):
    layers = adapter_for(small, small_params, "ia3", rank=None, targets=("k", "v", "down"))[
        "layers"
    ]
    assert layers["attn"]["k"].inputs is None and layers["attn"]["k"].outputs.shape == (3, 16)
    assert layers["mlp"]["down"].outputs is None and layers["mlp"]["down"].inputs.shape == (3, 48)
    assert (
        layers["attn"]["q"] is None
        and adapters.sizes({"layers": layers}) == (3 * (16 + 16 + 48),) * 2
    )


def test_a_bottleneck_acts_on_the_sum_of_the_others():
    w, x, a, b = draw(6, 5), draw(2, 3, 6), draw(6, 2), draw(2, 5)
    w_down, b_down, w_up, b_up = draw(5, 3), draw(3), draw(3, 5), draw(5)
    bottleneck = Bottleneck(*map(jnp.array, (w_down, b_down, w_up, b_up)), gain=ONE)
    mix = adapters.Mix((bottleneck, LoRA(jnp.array(a), jnp.array(b), jnp.ones(2))))
    h = x @ w + x @ a @ b
    inner = h @ w_down + b_down
    gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    np.testing.assert_allclose(out(x, w, mix), h + gelu @ w_up + b_up, rtol=1e-3, atol=1e-3)


def test_a_bottleneck_stands_after_o_and_down(small, small_params):
    layers = adapter_for(small, small_params, "lora+bottleneck", rank=4)["layers"]
    found = [n for part in layers.values() for n, x in part.items() if isinstance(x, adapters.Mix)]
    assert sorted(found) == ["down", "o"] and isinstance(layers["attn"]["q"], LoRA)
    with pytest.raises(
        UserError, match="'bottleneck' is applied to o, down; targets name none of them"
    ):
        adapters.specs(
            llama.specs(small), AdapterConfig(kind="bottleneck", rank=4, targets=("q", "k"))
        )


def test_a_full_delta_is_its_weight_change():
    w, x, dw = draw(6, 5), draw(2, 3, 6), draw(6, 5)
    layer = FullDelta(jnp.array(dw), 0.5 * ONE)
    np.testing.assert_allclose(out(x, w, layer), x @ (w + 0.5 * dw), rtol=1e-4, atol=1e-5)


def test_rslora_divides_by_the_square_root_of_the_rank():
    config = AdapterConfig(rank=16, alpha=8.0, targets=("q",), scaling="alpha/sqrt(rank)")
    found = placements(("layers/attn/q",), 2, config)["layers/attn/q"]
    np.testing.assert_allclose(found.scale(), np.full((2, 16), 2.0))


def test_one_rank_where_one_is_needed():
    placement = Placement((4, 8), (8.0, 16.0), "q")
    with pytest.raises(UserError, match="mora needs one rank in all layers of 'q'"):
        placement.one_rank("mora")


def test_kinds_with_ranks_need_one(small):
    with pytest.raises(UserError, match="needs config.adapter.rank"):
        adapters.specs(llama.specs(small), AdapterConfig(kind="lora+ia3"))
    assert adapters.specs(llama.specs(small), AdapterConfig(kind="ia3"))


def test_vera_is_shared_factors_between_two_vectors(small, small_params):
    adapter = adapter_for(small, small_params, "vera", rank=5, targets=("k", "down"))
    a, b = (np.asarray(adapter["shared"]["vera"][name]) for name in "ab")
    assert a.shape == (48, 5) and b.shape == (5, 32)
    assert (
        np.abs(a).max() <= np.sqrt(6 / 48) and np.abs(b).max() <= np.sqrt(6 / 5) and b.std() > 0.5
    )
    k = adapter["layers"]["attn"]["k"]
    wanted = a[:32] @ np.diag(k.lambda_d[1]) @ b[:, :16] @ np.diag(k.lambda_b[1])
    np.testing.assert_allclose(
        adapters.deltas(adapter, small_params)["layers"]["attn"]["k"][1],
        wanted,
        rtol=1e-4,
        atol=1e-5,
    )
    assert adapters.sizes(adapter) == (3 * (5 + 16) + 3 * (5 + 32),) * 2
    fresh = adapter_for(small, small_params, "vera", rank=5, trained=False)["layers"]["attn"]["q"]
    assert (fresh.lambda_d == np.float32(0.1)).all() and (fresh.lambda_b == 0).all()
    with pytest.raises(UserError, match=r"vera needs one rank in all layers|one rank everywhere"):
        adapter_for(small, small_params, "vera", rank_pattern=((".*/attn/q", 2),))


def test_dora_over_inputs_normalises_rows():
    w, x, a, b, m = draw(6, 5), draw(2, 3, 6), draw(6, 2), draw(2, 5), np.abs(draw(6)) + 0.5
    layer = adapters.DoRA(
        *map(jnp.array, (a, b)), 2 * jnp.ones(2), None, ONE, None, per_input=True
    ).bind(jnp.array(w))
    np.testing.assert_allclose(layer.m, np.linalg.norm(w, axis=1), rtol=1e-5)
    layer, v = layer.replace(m=jnp.array(m)), w + 2 * a @ b
    wanted = m[:, None] * v / np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(out(x, w, layer), x @ wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layer.delta(jnp.array(w)), wanted - w, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("per_input", [False, True])
def test_dora_may_differentiate_its_norm(per_input):
    import jax

    w, x, a, b, g = draw(6, 5), draw(2, 3, 6), draw(6, 2), draw(2, 5), draw(2, 3, 5)
    m = np.abs(draw(6 if per_input else 5)) + 0.5
    axis = 1 if per_input else 0

    def materialised(a, b):
        v = w + a @ b
        scaled = v / jnp.linalg.norm(v, axis=axis, keepdims=True) * jnp.expand_dims(m, axis)
        return jnp.sum((x @ scaled) * g)

    def ours(a, b):
        layer = adapters.DoRA(
            a, b, jnp.ones(2), jnp.array(m), ONE, jnp.sum(jnp.array(w) ** 2, axis), per_input=per_input,
            norm_gradient=True,
        )  # fmt: skip
        return jnp.sum(project(jnp.array(x), (Site(jnp.array(w), layer),))[0] * g)

    got, wanted = (jax.grad(f, (0, 1))(jnp.array(a), jnp.array(b)) for f in (ours, materialised))
    for p, q in zip(got, wanted, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-3, atol=1e-3)


def test_dora_on_a_unit_of_zeros_is_refused(small, small_params):
    w = small_params["layers"]["mlp"]["up"].at[1, :, 7].set(0)
    params = small_params | {
        "layers": small_params["layers"] | {"mlp": small_params["layers"]["mlp"] | {"up": w}}
    }
    with pytest.raises(
        UserError, match=r"layers/mlp/up: dora divides by the norm .* output 7 in layer 1 are all 0"
    ):
        adapter_for(small, params, "dora")
    adapter_for(small, params, "dora", targets=("q", "layers/2/mlp/up"))


def test_pissa_takes_the_largest_singular_values(small, small_params):
    layer = adapter_for(small, small_params, "pissa", rank=3, trained=False)["layers"]["mlp"]["up"]
    w = np.asarray(small_params["layers"]["mlp"]["up"][0])
    u, s, vt = np.linalg.svd(w)
    np.testing.assert_allclose(
        (layer.a[0] * layer.scale[0]) @ layer.b[0], (u[:, :3] * s[:3]) @ vt[:3], atol=1e-5
    )
    assert layer.a is not layer.a0
    fused = adapters.fuse(adapter_for(small, small_params, "pissa", rank=3))["layers"]["mlp"]["up"]
    assert type(fused) is LoRA and fused.a.shape[-1] == 6


@pytest.mark.parametrize("kind", ["lora", "dora", "pissa"])
def test_a_rank_over_the_weights_size_is_refused(kind, small, small_params):
    with pytest.raises(
        UserError, match=r"adapter rank 17 is more than a weight \(32, 16\) like 'k' can have"
    ):
        adapter_for(small, small_params, kind, rank=17, targets=("k",))
