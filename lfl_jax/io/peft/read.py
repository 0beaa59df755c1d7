"""Reading a PEFT folder: exactly what its config names, or a refusal."""

import dataclasses
import math
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.adapter_tree import layers_of
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.truncate import norm
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.peft import ia3, lora, vera
from lfl_jax.io.peft.fields import Fields, saved_modules, show, target_modules, trained_biases
from lfl_jax.io.peft.places import (
    CONFIG,
    EMBEDDINGS,
    SINGLE,
    STEM,
    Leaf,
    Place,
    find_places,
    get_path,
    key_of,
    put_path,
)
from lfl_jax.models import llama
from lfl_jax.quant import require_dense

# peft_type -> the file that reads and writes it
KINDS: dict[str, ModuleType] = {"LORA": lora, "IA3": ia3, "VERA": vera}
# A tensor of an adapter, with the adapter's name in its key where a plain state_dict was saved.
NAMED = re.compile(
    r"(?P<module>.*)\.(?P<leaf>lora_A|lora_B|lora_magnitude_vector|lora_embedding_[AB]|ia3_l|vera_A|vera_B|vera_lambda_[bd])"
    r"(\.(?!weight$)(?P<name>[^.]+))?(?P<end>\.weight)?"
)
SINGLE_PATHS = {module: path for path, module in SINGLE.items()}
OWN = re.compile(r"(?P<module>.*)\.modules_to_save\.(?P<name>[^.]+)\.(?P<end>weight|bias)")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An adapter, the parameters it goes with (`replaced`: paths of those the folder brought), and
    its size.

    description: its kind or rank, in a word or two.
    """

    adapter: dict
    params: dict
    modules: int
    delta_norm: float
    description: str
    replaced: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line: how many modules, which, of what rank, and the size of the change."""
        stacks = {path.split("/")[1]: get_path(self.adapter, f"layers/{path}") for path in MODULES}
        layers = [name for name, x in stacks.items() if x is not None]
        total = len(MODULES) * len(self.params["layers"]["attn_norm"])
        also = f", with its own {', '.join(self.replaced)}" if self.replaced else ""
        return (
            f"{self.modules} of {total} modules ({', '.join(layers)}), {self.description},"
            f" ||dW||_F = {self.delta_norm:.3g}{also}"
        )


def load(folder: Path, params: dict, *, fingerprint: str | None = None) -> Loaded:
    """The adapter in this folder, float32, for these parameters; and these, with the folder's own
    modules in place.

    fingerprint: of the base, compared with the folder's if that has one. Raises UserError for
    whatever is missing, superfluous, misshapen, not finite, without effect, or not supported.
    """
    fields, places, tensors = Fields(folder), find_places(params), _Named(folder)
    kind = _kind(fields)
    tensor_file.check_base(folder, tensors.opened, fingerprint)
    wanted = _wanted(fields, kind, places, params)
    _check_names(tensors, wanted.required, wanted.known(), len(params["layers"]["attn_norm"]))

    with np.errstate(all="ignore"):
        adapter = kind.build(fields, tensors.read, wanted.names, places, params)
        size = norm(adapter, params)
    _check_size(tensors.file, size, adapter)

    replaced = _replace(tensors, wanted, params)
    replaced = _merge_embeddings(fields, tensors, wanted.embeddings, replaced)
    description = kind.describe(adapter) + _merged(wanted.embeddings)
    return Loaded(
        adapter, replaced, len(wanted.names), size, description, _changed(replaced, params)
    )


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """What a config asks for. names: the adapted modules; embeddings: the embedding and head with a
    LoRA.

    required: {key: shape}. own: the parameters that may come along, {key: leaf}, the embedding
    before the head; untie: over a tied base, an embedding that was trained as a copy leaves the
    head as it was. So it is in PEFT.
    """

    names: list[str]
    embeddings: list[str]
    required: dict[str, tuple[int, ...]]
    own: dict[str, Leaf]
    untie: bool

    def known(self) -> dict[str, tuple[int, ...]]:
        """{key: shape} of all that may be in the file."""
        return {key: leaf.shape for key, leaf in self.own.items()} | self.required


def _wanted(fields: Fields, kind: ModuleType, places: dict[str, Place], params: dict) -> _Wanted:
    """UserError where fields contradict one another."""
    names, embeddings = target_modules(fields, places, kind.default_targets(params))
    saved = saved_modules(fields, places)
    kind.check(fields, places, names)
    both = sorted(set(names) & set(saved))
    if both:
        raise UserError(
            f"{fields.file}: {both[0]} is in target_modules and in modules_to_save; expected one of"
            " them"
        )

    brought = _own_leaves(saved, places) | trained_biases(
        fields, names, places, kind.BIAS_OF_ADAPTED
    )
    # PEFT's save_embedding_layers writes these, too, trained or not.
    optional = _own_leaves(EMBEDDINGS, places)
    optional |= {
        key_of(name, "base_layer.weight"): places[name].leaves()["weight"] for name in embeddings
    }

    shapes = kind.shapes(fields, places, names) | _embedding_shapes(fields, places, embeddings)
    required = shapes | {key: leaf.shape for key, leaf in brought.items()}
    untie = "model.embed_tokens" in saved and not fields.flag("ensure_weight_tying")
    return _Wanted(names, embeddings, required, optional | brought, untie)


def _merged(names: list[str]) -> str:
    """For the line about what was loaded."""
    last = " and ".join(name.split(".")[-1] for name in names)
    return f", LoRA on {last} added to the weights" if names else ""


def _kind(fields: Fields) -> ModuleType:
    name = fields.raw.get("peft_type")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UserError(
            f"{fields.file}: peft_type={show(name)}; only {', '.join(KINDS)} are read (LORA with"
            " DoRA)"
        )
    fields.refuse_unknown(kind.READ | kind.IGNORED)
    return kind


def _embedding_shapes(
    fields: Fields, places: dict[str, Place], names: list[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes of LoRA on the embedding and the head; UserError for other kinds there."""
    kind = fields.raw["peft_type"]
    if names and kind != "LORA":
        last = names[0].split(".")[-1]
        raise UserError(
            f"{fields.file}: {kind} on {last} is not supported; train it whole:"
            f" modules_to_save=[{last!r}]"
        )
    return lora.embedding_shapes(fields, places, names)


def _merge_embeddings(fields: Fields, tensors: "_Named", names: list[str], params: dict) -> dict:
    """Parameters with the LoRA of the embedding and of the head added to their weights, in those
    weights' type.

    Our models have adapters in their layers only. Over a tied base, PEFT changes each of the two
    alone.
    """
    result = params
    for name in names:
        old = llama.head(params) if name == "lm_head" else params["embed"]
        require_dense(f"{tensors.file}: LoRA on {name}", old)
        with np.errstate(all="ignore"):
            change = lora.embedding_delta(fields, tensors.read, name)
        if not np.isfinite(change).all():
            raise UserError(
                f"{tensors.file}: the weight change of {name} is not finite: training had diverged"
            )
        new = (jnp.asarray(old, jnp.float32) + change).astype(old.dtype)
        result = result | {
            SINGLE_PATHS[name]: jax.device_put(new, old.sharding)
            if isinstance(old, jax.Array)
            else new
        }
    return result if not names or "head" in result else result | {"head": params["embed"]}


def _own_leaves(names: Iterable[str], places: dict[str, Place]) -> dict[str, Leaf]:
    """{key: leaf} of modules that are saved whole, the embedding before the head."""
    return {
        key_of(name, end): leaf for name in names for end, leaf in places[name].leaves().items()
    }


class _Named:
    """The folder's tensors by the keys that PEFT's save_pretrained writes.

    Read, too: an adapter's name inside the keys ("lora_A.default.weight", as in a plain
    state_dict), and lora_magnitude_vector with a trailing ".weight".
    """

    def __init__(self, folder: Path):
        """Read the headers. UserError for a file that is not there, not whole, or a pickle."""
        self.opened = tensor_file.open_folder(folder, STEM)
        self.file = next(iter(self.opened.files.values()), folder / f"{STEM}.safetensors")
        found = {key: _canonical(key) for key in self.opened}
        adapters = {name for _, name in found.values() if name is not None}
        if len(adapters) > 1:
            shown = ", ".join(show(name) for name in sorted(adapters))
            raise UserError(
                f"{self.file}: tensors of several adapters ({shown}); save one adapter to a folder"
            )
        self.keys = {plain: key for key, (plain, _) in found.items()}
        if len(self.keys) != len(self.opened):
            twice = next(plain for key, (plain, _) in found.items() if self.keys[plain] != key)
            raise UserError(
                f"{self.file}: {twice} is there twice (with and without '.weight' or a name); keep"
                " one"
            )

    def read(self, key: str) -> np.ndarray:
        """A tensor in float32; UserError if it is not finite."""
        with np.errstate(all="ignore"):
            x = self.opened[self.keys[key]].astype(np.float32)
        if not np.isfinite(x).all():
            raise UserError(
                f"{self.file}: {self.keys[key]} holds NaN or infinity: training had diverged"
            )
        return x


def _canonical(key: str) -> tuple[str, str | None]:
    """(the key as save_pretrained writes it, the adapter's name inside it or None)."""
    if own := OWN.fullmatch(key):
        return f"{own['module']}.{own['end']}", own["name"]
    match = NAMED.fullmatch(key)
    if match is None:
        return key, None
    end = "" if match["leaf"] == "lora_magnitude_vector" else match["end"] or ""
    return f"{match['module']}.{match['leaf']}{end}", match["name"]


def _check_names(tensors: _Named, required: dict, known: dict, layers: int) -> None:
    """UserError unless the file holds what is required, nothing that is not known, in the right
    shapes."""
    foreign, missing = (
        [k for k in tensors.keys if k not in known],
        [k for k in required if k not in tensors.keys],
    )
    numbers = {k: re.search(r"\.layers\.(\d{1,9})\.", k) for k in foreign}
    beyond = [k for k, match in numbers.items() if match and int(match[1]) >= layers]
    if beyond:
        raise UserError(
            f"{tensors.file}: made for more than the {layers} layers of this model: {_some(beyond)}"
        )
    if foreign:
        raise UserError(
            f"{tensors.file}: tensors of no module that {CONFIG} names: {_some(foreign)}"
        )
    if missing:
        raise UserError(
            f"{tensors.file}: {CONFIG} names modules whose tensors are not there: {_some(missing)}"
        )
    for key, written in tensors.keys.items():
        found = tensors.opened.shapes[written]
        if found != known[key]:
            raise UserError(
                f"{tensors.file}: {written} has shape {show(found)}; expected {known[key]}"
            )


def _some(keys: list[str]) -> str:
    more = f", ... ({len(keys)} in all)" if len(keys) > 4 else ""
    return ", ".join(show(key)[1:-1] for key in keys[:4]) + more


def _check_size(file: Path, size: float, adapter: dict) -> None:
    """UserError for a change that is not finite, or none: with B = 0, a DoRA's is the rounding of
    its norms."""
    if not size < float(np.finfo(np.float32).max):
        raise UserError(f"{file}: the weight change is not finite: training had diverged")
    doras = [layer for layer in layers_of(adapter) if isinstance(layer, DoRA)]
    rounding = 0.0
    if not any(jnp.any(layer.b) for layer in doras):
        rounding = 1e-5 * math.sqrt(sum(float(jnp.sum(x.w2 * x.gain)) for x in doras))
    if size <= rounding:
        raise UserError(
            f"{file}: the adapter changes nothing (||dW||_F = {size:.2g}): it was saved before"
            " training"
        )


def _replace(tensors: _Named, wanted: _Wanted, params: dict) -> dict:
    """Parameters with the folder's copies in place, in the type of what they replace; equal ones
    stay."""
    result = params
    for key, leaf in wanted.own.items():
        if key not in tensors.keys:
            continue
        x = tensors.read(key)
        old = get_path(
            result, "embed" if leaf.path == "head" and "head" not in params else leaf.path
        )
        require_dense(f"{tensors.file}: modules_to_save", old)
        new = (
            jnp.asarray(x, old.dtype)
            if leaf.layer is None
            else jnp.asarray(old).at[leaf.layer].set(x.T)
        )
        if not np.array_equal(new, old):
            new = jax.device_put(new, old.sharding) if isinstance(old, jax.Array) else new
            result = put_path(result, leaf.path, new)
    if wanted.untie and "head" not in params and key_of("lm_head") not in tensors.keys:
        result = result | {"head": params["embed"]}
    return result


def _changed(new: dict, old: dict) -> tuple[str, ...]:
    """Paths of the leaves that were put in; a head that is the tied embedding as it was does not
    count."""
    return tuple(path for path, leaf in tree.changed(new, old).items() if leaf is not old["embed"])
