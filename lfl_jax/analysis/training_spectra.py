"""Spectra of the weight change while a run trains: spectra.jsonl of the run.

Every config.analysis.every steps, and after the last one, each chosen weight has a record of
`spectra.records` with its step. `read` returns them, to studies and to whoever draws them.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lfl_jax import quant
from lfl_jax.adapters.build import find_kinds
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.placement import target_patterns
from lfl_jax.analysis import spectra, weight_changes
from lfl_jax.analysis.weight_changes import PATHS, WeightChange, unstacked_name
from lfl_jax.config import AnalysisConfig, Config
from lfl_jax.core import files, hosts, tree
from lfl_jax.core.types import Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.io.metrics import MetricsWriter
from lfl_jax.model import Model

FILE = "spectra.jsonl"
# measures whose mean over the weights metrics.jsonl and TensorBoard get, too
SUMMARY = ("k90", "effective_rank", "stable_rank", "frobenius")


def check(config: Config, n_layers: int) -> None:
    """UserError for modules that the model has not, and for adapters without a weight change."""
    if not config.analysis.every:
        return
    _patterns(config.analysis, n_layers)
    for name, kind in zip(config.adapter.kinds, find_kinds(config.adapter), strict=True):
        if kind.on_output or kind.delta is Kind.delta:
            raise UserError(
                f"config.analysis.every is of weight changes, and {name} has none; set it to 0"
            )


def _patterns(config: AnalysisConfig, n_layers: int) -> list[str]:
    names = [unstacked_name(path, layer) for path in PATHS for layer in range(n_layers)]
    return target_patterns(config.modules, names, "config.analysis.modules:")


@dataclasses.dataclass(frozen=True)
class Spectra:
    """What the training loop calls to measure the chosen weights against `base`.

    base: the parameters before training; of those that train, the chosen ones as copies in host
    memory, and the others as shapes. norms: ||W||_F by name, once it was computed.
    """

    config: AnalysisConfig
    steps: int
    base: Params
    patterns: Sequence[str]
    norms: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: AnalysisConfig, steps: int, params: Params, trains: Params) -> "Spectra":
        """Before the first step, which donates what trains (`trains`, None where it does not)."""
        if not config.every:
            return cls(config, steps, {}, ())
        patterns = _patterns(config, params["layers"]["attn_norm"].shape[0])
        return cls(config, steps, _kept(params, trains, patterns), patterns)

    @property
    def files(self) -> tuple[str, ...]:
        """The file that `write` appends to, if there is one."""
        return (FILE,) if self.config.every else ()

    def is_due(self, step: int) -> bool:
        """Whether spectra are taken after this step."""
        every = self.config.every
        return bool(every) and (step % every == 0 or step == self.steps)

    def write(self, step: int, model: Model, writer: MetricsWriter) -> None:
        """Measure the model's chosen weights. Collective, as the arrays are read."""
        changes = weight_changes.of_model(self.base, model, self._is_chosen)
        records = list(spectra.records(changes, norm_of=self._base_norm))
        writer.append(FILE, step, records)
        writer.write(step, summary(records))

    def _is_chosen(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.patterns)

    def _base_norm(self, change: WeightChange) -> float:
        # the base does not change: its norms are computed once
        if change.name not in self.norms:
            self.norms[change.name] = spectra.base_norm(change)
        return self.norms[change.name]


def _kept(params: Params, trains: Params, patterns: Sequence[str]) -> Params:
    """The base for later: frozen parameters as they are, of the others what is measured."""

    def for_later(path: tree.KeyPath, leaf: Weight, trained: Weight | None) -> Weight:
        if trained is None:
            return leaf
        name = tree.name(path)
        unstacked = [unstacked_name(name, layer) for layer in range(leaf.shape[0])]
        if name in PATHS and any(re.fullmatch(p, one) for p in patterns for one in unstacked):
            # a copy: the array's own memory is donated to the first step
            return np.array(hosts.to_numpy(leaf))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(for_later, params, trains, is_leaf=quant.is_quantised)


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{"spectra/k90": its mean over the weights, ...}; empty for no records."""
    names = SUMMARY if records else ()
    return {f"spectra/{name}": spectra.means(records, name)[()] for name in names}


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, by step and weight; none for a run without spectra."""
    return files.read_jsonl(folder / FILE)
