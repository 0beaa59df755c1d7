"""The laws of adapters (`proofs.laws`) for every kind; docs/adapters.md states them in a table, which
is compared with the code.

The table's second column says how a law holds, the third for which kinds it holds in another way.
"exact" is to the last bit, "rounding" is `helpers.same_up_to_rounding`, "no" is a difference that
rounding does not explain, and a text in quotes is part of the refusal's message.
"""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, quantised

from lfl_jax import adapters
from lfl_jax.adapters import KINDS, Mix
from lfl_jax.core import tree
from lfl_jax.models import llama
from lfl_jax.proofs.laws import LAWS, Case, violation

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"
MIX = "lora+dora"
ALL = (*KINDS, MIX)
# factors on outputs, and on inputs; others are alike at every weight
TARGETS = {"ia3": ("o", "down")}
# in all of this like mora, pissa
SIMILAR = [kind for kind in KINDS if kind.startswith("mora_") or kind == "olora"]
TOKENS = jnp.arange(22).reshape(2, 11) % 96


def table():
    """{law: {kind: outcome}} of the page; a kind with a star stands for all that begin so."""
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \| (.*?) ?\|$", PAGE.read_text("utf-8").split("\n## Laws\n")[1], re.M
    )
    found = {}
    for law, usual, exceptions in rows[1:]:
        found[law] = dict.fromkeys(ALL, usual)
        for names, outcome in (each.split(": ", 1) for each in exceptions.split("; ") if each):
            for name in names.split(", "):
                kinds = [
                    kind
                    for kind in ALL
                    if re.fullmatch(name.replace("+", r"\+").replace("*", ".*"), kind)
                ]
                assert kinds, f"{law}: {name} is no kind"
                found[law] |= dict.fromkeys(kinds, outcome)
    return found


STATED = table()


@pytest.fixture(scope="module")
def case_of(small, small_params, tmp_path_factory):
    """The case of a kind, made once."""

    @functools.cache
    def case(kind, **options):
        params = quantised(small, small_params) if "loftq" in kind else small_params
        targets = TARGETS.get(kind, ("down",))
        fresh = adapter_for(small, small_params, kind, targets=targets, trained=False, **options)
        return Case.of(params, fresh, tmp_path_factory.mktemp("case"), TOKENS, small)

    return case


def test_the_page_states_these_laws():
    assert {law.name: {kind: law.stated(kind) for kind in ALL} for law in LAWS} == STATED
    assert all(
        re.match(r'exact$|rounding$|no, .|".+"$', x)
        for outcomes in STATED.values()
        for x in outcomes.values()
    )


def every_kind():
    return [pytest.param(kind, marks=pytest.mark.slow if kind in SIMILAR else ()) for kind in ALL]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("kind", every_kind())
def test_laws(kind, law, case_of):
    assert not violation(law, case_of(kind), law.stated(kind))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
def test_laws_with_the_other_factor_at_zero(kind, law, case_of):
    case = case_of(kind, init="a_zero")
    down = case.fresh["layers"]["mlp"]["down"]
    assert (
        (down.a == 0).all()
        and (down.b != 0).all()
        and (case.a["layers"]["mlp"]["down"].a != 0).all()
    )
    assert not violation(law, case, law.stated(kind))


@pytest.mark.parametrize("kind", every_kind())
def test_the_trained_adapters_of_the_laws_change_the_model(kind, case_of):
    case = case_of(kind)
    base = case.hidden(case.params, None)
    for one, other in ((case.hidden(case.params, case.a), base),
                       (case.hidden(case.params, case.a), case.hidden(case.params, case.b))):  # fmt: skip
        assert jnp.abs(one - other).max() > 0.1


# on hidden values up to 4: a full-rank change of 0.1 at every weight makes rounding grow
BOUND = 3e-5
KINDS_OF_SCANS = (
    "lora",
    "dora",
    "vera",
    "ia3",
    "mora",
    "full_delta",
    "subspace",
    MIX,
    "pissa",
    "olora",
    "lora+bottleneck",
)


def run(params, adapter, cfg, **options):
    return llama.forward(params, adapter, TOKENS, cfg, **options)[0]


def test_one_hot_routing_is_separate_runs_to_the_last_bit(small, small_params):
    first, second = (
        adapter_for(small, small_params, "lora"),
        adapter_for(small, small_params, "dora", seed=5),
    )
    mixed = adapters.add(first, second)
    routed = run(small_params, mixed, small, routing=jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    assert jnp.array_equal(
        routed[0], run(small_params, mixed, small, routing=jnp.array([[1.0, 0.0]] * 2))[0]
    )
    np.testing.assert_allclose(routed[0], run(small_params, first, small)[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(routed[1], run(small_params, second, small)[1], rtol=0, atol=2e-5)


def test_routing_per_token_is_routing_of_its_segment(small, small_params):
    mixed = adapters.add(
        adapter_for(small, small_params), adapter_for(small, small_params, "dora", seed=5)
    )
    segments = jnp.array([[1] * 5 + [2] * 6] * 2)
    routing = jax.nn.one_hot(segments - 1, 2)
    positions = jnp.array([[*range(5), *range(6)]] * 2)
    packed = run(
        small_params, mixed, small, routing=routing, segment_ids=segments, positions=positions
    )
    alone = llama.forward(
        small_params, mixed, TOKENS[:, 5:], small, routing=jnp.array([[0.0, 1.0]] * 2)
    )[0]
    np.testing.assert_allclose(packed[:, 5:], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("lora", "dora") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS_OF_SCANS
    ],
)
def test_scanned_unstacked_and_recomputed_layers_agree(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind)
    loop = small_params | {"layers": tree.unstack(small_params["layers"], 3)}
    unstacked = run(loop, adapter | {"layers": tree.unstack(adapter["layers"], 3)}, small)
    scanned = run(small_params, adapter, small)
    np.testing.assert_allclose(unstacked, scanned, rtol=0, atol=BOUND)
    for remat in ("selective", "full"):
        again = run(small_params, adapter, dataclasses.replace(small, remat=remat))
        np.testing.assert_allclose(again, scanned, rtol=0, atol=BOUND)


@pytest.mark.parametrize("kind", ["lora", "dora", "lora+dora"])
def test_padded_ranks_and_unadapted_layers_stay_untouched(kind, small, small_params):
    pattern = ((r"layers/1/.*", 2), (r"layers/2/attn/q", 3))
    adapter = adapter_for(
        small, small_params, kind, rank=4, rank_pattern=pattern, targets=("q", "layers/0/mlp/up")
    )
    ones = jnp.ones(TOKENS.shape)

    def loss(adapter):
        return jnp.sum(run(small_params, adapter, small) * ones[..., None])

    grads = jax.grad(loss)(adapter)["layers"]
    members = lambda layer: layer.layers if isinstance(layer, Mix) else (layer,)  # noqa: E731
    for q, up in zip(members(grads["attn"]["q"]), members(grads["mlp"]["up"]), strict=True):
        assert (q.a[1, :, 2:] == 0).all() and (q.b[1, 2:] == 0).all() and (q.b[2, 3:] == 0).all()
        assert (q.b[1, :2] != 0).any() and (q.b[2, 2] != 0).any()
        assert (up.a[1:] == 0).all() and (up.b[1:] == 0).all() and (up.b[0] != 0).any()
    assert grads["attn"]["k"] is None


def test_sizes_count_used_and_stored(small, small_params):
    adapter = adapter_for(
        small, small_params, "lora", rank=4, rank_pattern=((r"layers/1/.*", 2),), targets=("q",)
    )
    assert adapters.sizes(adapter) == ((4 + 2 + 4) * (32 + 32), 3 * 4 * (32 + 32))
    dora = adapter_for(small, small_params, "dora", rank=4, targets=("layers/0/attn/q",))
    assert adapters.sizes(dora) == (4 * 64 + 32, 3 * (4 * 64 + 32))


@pytest.mark.parametrize("kind", ["ia3", "mora", "full_delta", "bottleneck"])
def test_unadapted_layers_of_a_stack_stay_untouched(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind, targets=("layers/1/attn/o",))

    def loss(adapter):
        return jnp.sum(run(small_params, adapter, small) ** 2)

    grads = jax.grad(loss)(adapter)["layers"]["attn"]["o"]
    for name, grad in tree.items(grads):
        if name != "gain":
            assert (grad[jnp.array([0, 2])] == 0).all() and (grad[1] != 0).any(), name
