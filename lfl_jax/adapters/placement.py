"""Which layers an adapter is applied to, and with which rank and alpha.

Ordered full-match regexes on unstacked weight paths ("layers/3/attn/q") decide; the first match of
a pattern list counts.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from lfl_jax.config import AdapterConfig
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Placement:
    """Rank and alpha of every layer of one stacked weight; rank 0 where a layer is not adapted.

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

    def scale(self) -> Float32[np.ndarray, "L R"]:
        """alpha / rank of every rank in use, and 0 for padded ranks.

        config.scaling may ask for alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732).
        """
        # a padded rank has scale 0, so its gradients are 0 and it stays what it was: 0
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
    # A kind without ranks has no scale that could be 0 where a layer is not adapted.
    used = np.array([[rank > 0] for rank in placement.ranks], np.float32)
    return ArraySpec(used.shape, (weight.axes[0], "activation"), spec.Constant(used))


def placements(
    stacked_paths: Sequence[str], layers: int, config: AdapterConfig
) -> dict[str, Placement]:
    """Placement of every adapted stacked weight, by its path ("layers/attn/q").

    A target is a module name ("q") or a regex on the unstacked path. Raises UserError for a target
    or a pattern that matches no weight.
    """
    unstacked = {path: _unstacked(path, layers) for path in stacked_paths}
    every_path = [path for paths in unstacked.values() for path in paths]

    # All patterns are checked: a misspelt one would match nothing and train less, silently.
    targets = target_patterns(config.targets, every_path, "adapter target")
    for pattern, _ in (*config.rank_pattern, *config.alpha_pattern):
        _require_match(pattern, every_path, "adapter pattern")

    by_weight = {}
    for stacked, paths in unstacked.items():
        placement = _placement(stacked.split("/")[-1], paths, targets, config)
        # rank 0 in every layer: no adapter stands beside this weight
        if any(placement.ranks):
            by_weight[stacked] = placement
    return by_weight


def _placement(
    module: str, paths: Sequence[str], targets: Sequence[str], config: AdapterConfig
) -> Placement:
    """Of one stacked weight, from the paths of its layers."""
    ranks = tuple(_rank(path, targets, config) for path in paths)
    alphas = tuple(_alpha(path, rank, config) for path, rank in zip(paths, ranks, strict=True))
    return Placement(ranks, alphas, module, config)


def _unstacked(path: str, layers: int) -> list[str]:
    return [path.replace("layers/", f"layers/{i}/", 1) for i in range(layers)]


def _rank(path: str, targets: Sequence[str], config: AdapterConfig) -> int:
    if not any(re.fullmatch(target, path) for target in targets):
        return 0
    # of a kind that has no rank, 1 says that it is applied here
    return int(_first_match(path, config.rank_pattern, config.rank or 1))


def _alpha(path: str, rank: int, config: AdapterConfig) -> float:
    # without a stated alpha, 2 x rank: the paper's choice (§4.7), here per layer
    default = 2.0 * rank if config.alpha is None else config.alpha
    return float(_first_match(path, config.alpha_pattern, default))


def _first_match(
    path: str, patterns: Sequence[tuple[str, int | float]], default: int | float
) -> int | float:
    matching = (value for pattern, value in patterns if re.fullmatch(pattern, path))
    return next(matching, default)


def target_patterns(targets: Sequence[str], paths: Sequence[str], what: str) -> list[str]:
    """Regexes on unstacked paths of targets, which are module names or such regexes.

    what: a target is called in a message. UserError for one that matches none of the paths.
    """
    return [_target_regex(target, paths, what) for target in targets]


def _target_regex(target: str, paths: Sequence[str], what: str) -> str:
    if any(path.split("/")[-1] == target for path in paths):
        # A module's name stands for it in every layer.
        return rf"layers/\d+/\w+/{target}"
    return _require_match(target, paths, what)


def _require_match(pattern: str, paths: Sequence[str], what: str) -> str:
    """The pattern; UserError for one that matches no path, or is no regex."""
    try:
        if any(re.fullmatch(pattern, path) for path in paths):
            return pattern
    except re.error as error:
        raise UserError(f"{what} {pattern!r} is not a regular expression: {error}") from None
    modules = sorted({path.split("/")[-1] for path in paths})
    raise UserError(
        f"{what} {pattern!r} matches no weight; use module names {modules}"
        f" or a regex on paths such as {paths[0]!r}"
    )
