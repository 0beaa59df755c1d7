"""What a finished run did to its weights, measured once, into weights.jsonl of its directory.

An interrupted measurement resumes at the first weight that is missing. `run_weights` reads the
file.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from lfl_jax.adapters.adapter_tree import weight
from lfl_jax.analysis import decompose, intruders, nulls, spectra, weight_changes
from lfl_jax.analysis.run_weights import FILE, RANKS, VERSION, Record
from lfl_jax.analysis.weight_changes import WeightChange
from lfl_jax.core import files
from lfl_jax.core.types import Params
from lfl_jax.io.progress import progress
from lfl_jax.model import Model


def measure(
    folder: Path, base: Params, tuned: Model, step: int, show_progress: bool = False
) -> list[Record]:
    """The records of a run's model at a step, from the file as far as they are there.

    base: its base's parameters. Raises UserError as `weight_changes.of_model`.
    """
    path, header = folder / FILE, _header(step, base)
    lines = files.read_jsonl(path)
    if lines[:1] != [header]:
        # Of another step, or another version of this: nothing of it is of use.
        files.write_text(path, "")
        files.append_jsonl(path, [header])
        lines = [header]

    done = {line["weight"] for line in lines[1:]}
    with progress(header["weights"], "weights", done=len(done), visible=show_progress) as advance:
        for change in weight_changes.of_model(base, tuned):
            if change.name not in done:
                lines.append(_record(change))
                files.append_jsonl(path, lines[-1:])
                advance(1)
    return lines[1:]


def _header(step: int, base: Params) -> Record:
    layers = weight(base, weight_changes.PATHS[0]).shape[0]
    return {
        "version": VERSION,
        "step": step,
        "weights": layers * len(weight_changes.PATHS),
        "top_k": intruders.TOP_K,
        "epsilon": intruders.EPSILON,
    }


def _record(change: WeightChange) -> Record:
    base = spectra.base_norm(change)
    spectrum = decompose.spectrum(change)
    measured = spectra.measure(spectrum)
    changed = measured["frobenius"]
    about = {
        "weight": change.name,
        "layer": change.layer,
        "module": change.path.rpartition("/")[2],
        "inputs": change.shape[0],
        "outputs": change.shape[1],
        "is_zero": changed == 0,
        "base_frobenius": base,
        "relative_norm": changed / base if base else None,
    }
    return about | measured | _random(change, changed) | _intruders(change, spectrum.s)


def _random(change: WeightChange, norm: float) -> Record:
    """Ranks of a Gaussian change: of factors where the change has some, else dense."""
    if change.factors is None:
        spectrum = nulls.gaussian(change.shape, norm)
    else:
        spectrum = nulls.gaussian_factors(change.shape, change.factors[0].shape[1], norm)
    measured = spectra.measure(spectrum)
    return {f"{name}_random": measured[name] for name in RANKS}


def _intruders(change: WeightChange, s: Float[np.ndarray, " K"]) -> Record:
    """How many there are, and how many a change with its singular values s, turned at random."""
    own = intruders.of_change(change)
    return {
        "intruders": int(own.is_intruder().sum()),
        "intruders_random": 0 if change.is_zero() else _random_intruders(change, s),
        "cosine_floor": own.floor,
    }


def _random_intruders(change: WeightChange, s: Float[np.ndarray, " K"]) -> int:
    turned = nulls.in_random_directions(s, change.shape)
    return int(intruders.directions(change.base(), turned).is_intruder().sum())
