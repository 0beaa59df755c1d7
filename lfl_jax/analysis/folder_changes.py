"""Weight changes between two folders of Hugging Face checkpoints, read tensor by tensor.

A file's matrix is (O, I); it is transposed here, as a view.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lfl_jax.analysis.weight_change import NAME, PATHS, WeightChange, require_one_vocabulary
from lfl_jax.errors import UserError
from lfl_jax.io import hf, loading, tensor_file
from lfl_jax.io.tensor_file import Tensors
from lfl_jax.models import llama


def of_folders(base: Path, tuned: Path) -> Iterator[WeightChange]:
    """Every linear weight of two Hugging Face folders, read tensor by tensor.

    Raises UserError, before any tensor is read, for damaged folders and for models of other shapes
    or vocabularies.
    """
    before, after = _open_pair(base, tuned)
    return _of_tensors(before, after)


def others_of_folders(base: Path, tuned: Path) -> tuple[str, ...]:
    """Paths of changed parameters that are not linear weights, such as "embed"."""
    before, after = _open_pair(base, tuned)
    n_layers, changed = _n_layers(before), []
    for path in hf.LAYOUT.names:
        names = [name for name in hf.LAYOUT.tensor_names(path, n_layers) if name in after.shapes]
        if path not in PATHS and any(_differ(before, after, name) for name in names):
            changed.append(path)
    return tuple(changed)


def _differ(before: Tensors, after: Tensors, name: str) -> bool:
    # the head of a tied model is its embedding, whether or not the file repeats it
    known = name if name in before.shapes else hf.LAYOUT.names["embed"]
    return not np.array_equal(before[known], after[name])


def _open_pair(base: Path, tuned: Path) -> tuple[Tensors, Tensors]:
    cfgs = [hf.read_config(folder) for folder in (base, tuned)]
    require_one_vocabulary(cfgs[0].vocab_size, cfgs[1].vocab_size)
    pair = [tensor_file.open_folder(folder, ignore=hf.BUFFERS) for folder in (base, tuned)]
    for folder, tensors, cfg in zip((base, tuned), pair, cfgs, strict=True):
        loading.check(folder, tensors, hf.LAYOUT, llama.specs(cfg))

    before, after = pair
    for name, shape in before.shapes.items():
        # a head that one of the two does not repeat is its embedding
        if name in after.shapes and after.shapes[name] != shape:
            raise UserError(
                f"{NAME}: tensor {name!r} is {shape} in {base}, {after.shapes[name]} in {tuned};"
                " they are not of one model"
            )
    if cfgs[0].n_layers != cfgs[1].n_layers:
        raise UserError(
            f"{NAME}: {base} has {cfgs[0].n_layers} layers, {tuned} {cfgs[1].n_layers}; they are"
            " not of one model"
        )
    return before, after


def _n_layers(tensors: Tensors) -> int:
    return sum(name.endswith(hf.LAYOUT.names["layers/attn_norm"]) for name in tensors)


def _of_tensors(before: Tensors, after: Tensors) -> Iterator[WeightChange]:
    n_layers = _n_layers(before)
    for index in range(n_layers):
        for path in PATHS:
            name = hf.LAYOUT.tensor_names(path, n_layers)[index]
            yield _of_tensor(path, index, name, before, after)


def _of_tensor(path: str, index: int, name: str, before: Tensors, after: Tensors) -> WeightChange:
    def read(tensors: Tensors) -> np.ndarray:
        return tensors[name].astype(np.float32).T

    fan_out, fan_in = before.shapes[name]
    return WeightChange(
        path=path,
        layer=index,
        shape=(fan_in, fan_out),
        factors=None,
        read_change=lambda: read(after) - read(before),
        read_base=lambda: read(before),
        stored_as=after.dtypes[name],
    )
