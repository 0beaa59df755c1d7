"""Where adapters go and with which rank: ordered full-match regexes on unstacked weight paths
("layers/3/attn/q")."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lfl_jax.config import AdapterConfig
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Placement:
    """Rank and alpha of every layer of one stacked weight; rank 0 where the layer is not adapted.

    module: the weight's name ("q"). config: the adapter's options.
    """

    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    module: str = ""
    config: AdapterConfig = dataclasses.field(default_factory=AdapterConfig)

    @property
    def max_rank(self) -> int:
        """The stored rank: layers with less are padded."""
        return max(self.ranks)

    def scale(self) -> np.ndarray:
        """(L, R) float32: alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732); 0 for
        padded ranks."""
        scale = np.zeros((len(self.ranks), self.max_rank), np.float32)
        root = self.config.scaling == "alpha/sqrt(rank)"
        for row, rank, alpha in zip(scale, self.ranks, self.alphas, strict=True):
            row[:rank] = alpha / (math.sqrt(rank) if root else rank) if rank else 0.0
        return scale

    def one_rank(self, kind: str) -> int:
        """The rank of all adapted layers; UserError when a pattern gives them several."""
        ranks = set(self.ranks) - {0}
        if len(ranks) > 1:
            raise UserError(
                f"{kind} needs one rank in all layers of {self.module!r}; rank_pattern gives"
                f" {ranks}"
            )
        return ranks.pop()


def gain_spec(weight: ArraySpec, placement: Placement) -> ArraySpec:
    """Spec of the constant gain (L, 1): 1 where a layer is adapted, 0 elsewhere."""
    used = np.array([[rank > 0] for rank in placement.ranks], np.float32)
    return ArraySpec(used.shape, (weight.axes[0], "activation"), spec.Constant(used))


def place(stacked_paths: Sequence[str], layers: int, config: AdapterConfig) -> dict[str, Placement]:
    """Placement of every adapted stacked weight ("layers/attn/q").

    A target is a module name ("q") or a regex on the unstacked path. Raises UserError for a target
    or a pattern that matches no weight.
    """
    unstacked = {
        p: [p.replace("layers/", f"layers/{i}/", 1) for i in range(layers)] for p in stacked_paths
    }
    everything = [p for ps in unstacked.values() for p in ps]
    targets = [_target_regex(t, everything) for t in config.targets]
    for pattern, _ in (*config.rank_pattern, *config.alpha_pattern):
        _require_match(pattern, everything, "pattern")
    found = {}
    for stacked, names in unstacked.items():
        adapted = [any(re.fullmatch(t, name) for t in targets) for name in names]
        rank = config.rank or 1  # of kinds without one, it only says where they are
        ranks = tuple(
            int(_first(config.rank_pattern, n, rank)) * a
            for n, a in zip(names, adapted, strict=True)
        )
        alphas = tuple(
            float(_first(config.alpha_pattern, n, _alpha(config, r)))
            for n, r in zip(names, ranks, strict=True)
        )
        if any(ranks):
            found[stacked] = Placement(ranks, alphas, stacked.split("/")[-1], config)
    return found


def _alpha(config: AdapterConfig, rank: int) -> float:
    """Without a stated alpha, 2 x rank: the paper's choice (§4.7), here per layer."""
    return 2.0 * rank if config.alpha is None else config.alpha


def _first(patterns: Sequence[tuple[str, Any]], name: str, default: Any) -> Any:
    return next((value for pattern, value in patterns if re.fullmatch(pattern, name)), default)


def _target_regex(target: str, names: Sequence[str]) -> str:
    if any(name.split("/")[-1] == target for name in names):
        return rf"layers/\d+/\w+/{target}"
    return _require_match(target, names, "target")


def _require_match(pattern: str, names: Sequence[str], what: str) -> str:
    modules = sorted({name.split("/")[-1] for name in names})
    try:
        if any(re.fullmatch(pattern, name) for name in names):
            return pattern
    except re.error as error:
        raise UserError(
            f"adapter {what} {pattern!r} is not a regular expression: {error}"
        ) from None
    raise UserError(
        f"adapter {what} {pattern!r} matches no weight; use module names {modules}"
        f" or a regex on paths such as {names[0]!r}"
    )
