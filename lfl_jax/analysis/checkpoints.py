"""Tuned models by name, each against one base: runs, adapters and models, on disk or published.

A base is loaded where it has to be. Of two Hugging Face folders, and of a low-rank adapter over a
large one, weights are read one at a time: Llama-2-7B needs no memory for its 27 GB in float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfl_jax import assets
from lfl_jax.adapters.adapter_tree import all_members
from lfl_jax.adapters.kind import only_low_rank
from lfl_jax.analysis import weight_changes
from lfl_jax.analysis.weight_changes import WeightChange
from lfl_jax.assets import fetching
from lfl_jax.config import own_code
from lfl_jax.config.own_code import Code
from lfl_jax.core import files, spec, tree
from lfl_jax.core.sharding import make_rules
from lfl_jax.core.types import Params
from lfl_jax.errors import UserError
from lfl_jax.io import peft, pretrained
from lfl_jax.io.peft.modules import CONFIG
from lfl_jax.model import LoadedModel, Model, Origin
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import adapter_formats

# From so many parameters on, a low-rank adapter is read without its base in memory.
LARGE = 500_000_000


@dataclass(frozen=True)
class Checkpoint:
    """A tuned model against its base.

    amount: of training, None where it is not known. changes: reads the weight changes, one at a
    time, anew at every call. others: changed parameters without a spectrum, such as norms. model:
    the tuned model in memory, which is loaded first where only its weights' changes were read.
    """

    label: str
    changes: Callable[[], Iterator[WeightChange]]
    model: Callable[[], Model]
    others: tuple[str, ...] = ()
    amount: float | None = None


@dataclass(frozen=True)
class Base:
    """What tuned models are measured against.

    cfg: its shape. load: into memory; None where its weights are not there. folder: a Hugging Face
    folder that they can be read from one at a time, or None. quantised: as `Origin.quantised`.
    """

    name: str
    cfg: ModelConfig
    load: Callable[[], LoadedModel] | None
    folder: Path | None = None
    quantised: str | None = None
    code: Code = own_code.NOTHING

    @functools.cached_property
    def loaded(self) -> LoadedModel:
        """In memory, once. UserError for a base whose weights are not there."""
        if self.load is None:
            raise UserError(
                f"{self.name}: its weights were not read, and this adapter's dW is not known"
                " without them; give --base=PATH"
            )
        return self.load()

    def checkpoint(self, name: str) -> Checkpoint:
        """A run's latest step, an adapter, or a model, which was tuned from this base.

        Raises UserError for another base or other shapes, and for what is none of these.
        """
        path = located(name)
        if not _is_model(path):
            return self._of_adapter(name, path)
        if self.folder and _is_model_folder(path):
            return self._of_folders(name, path)
        return of_model(name, self.loaded.model.params, _loaded_model(path))

    def _of_folders(self, name: str, path: Path) -> Checkpoint:
        pair = (self.folder, path)
        # The first call refuses what is not one model, before anything is computed.
        weight_changes.of_folders(*pair)
        others = weight_changes.others_of_folders(*pair)
        changes = functools.partial(weight_changes.of_folders, *pair)
        return Checkpoint(name, changes, functools.partial(_loaded_model, path), others)

    def _of_adapter(self, name: str, path: Path) -> Checkpoint:
        streamed = self._streamed(name, path) if self._can_stream(path) else None
        if streamed is not None:
            return streamed
        return of_model(name, self.loaded.model.params, self._adapted(name))

    def _adapted(self, name: str) -> Model:
        """The base in memory with an adapter, or with what a run trained."""
        return adapter_formats.load(name, self.loaded.model.params, self.code)

    def _can_stream(self, path: Path) -> bool:
        is_large = spec.count(llama.specs(self.cfg)) >= LARGE
        is_needed = self.load is None or (is_large and self.folder is not None)
        return is_needed and (path / CONFIG).is_file()

    def _streamed(self, name: str, path: Path) -> Checkpoint | None:
        """With the adapter in memory and one weight of the base at a time.

        None for an adapter that reads or replaces weights of its base.
        """
        params = hollow(self.cfg)
        loaded = peft.load(path, params)
        if loaded.replaced or not all(map(only_low_rank, all_members(loaded.adapter))):
            return None
        # As of every adapter that is loaded: which modules it has is never a guess.
        print(f"{name}: {loaded.summary()}")  # noqa: T201
        adapter_formats.require_named_rank(name, loaded.adapter)
        tuned = Model(params=params, adapter=loaded.adapter)
        changes = functools.partial(weight_changes.of_model, params, tuned)
        if self.folder is not None:
            changes = functools.partial(_with_base, params, tuned, self.folder)
        return Checkpoint(name, changes, functools.partial(self._adapted, name))


@dataclass(frozen=True)
class Subject:
    """What one analysis is of: checkpoints over one base, in the order of training.

    unit: of their amounts of training. flags: reservations that stand at every figure. other: one
    over the same base, whose directions are compared with the last checkpoint's.
    """

    title: str
    base: Base
    checkpoints: tuple[Checkpoint, ...]
    unit: str = ""
    flags: tuple[str, ...] = ()
    other: Checkpoint | None = None


def of_model(name: str, base: Params, tuned: Model, amount: float | None = None) -> Checkpoint:
    """A model in memory; UserError for one that does not fit its base."""
    # The first call refuses; each later one reads the weights anew.
    weight_changes.of_model(base, tuned)
    others = weight_changes.others_of_model(base, tuned)
    changes = functools.partial(weight_changes.of_model, base, tuned)
    return Checkpoint(name, changes, lambda: tuned, others, amount)


def _loaded_model(path: Path) -> Model:
    opened = pretrained.open_model(path)
    params = opened.load(opened.cfg, make_rules(), "float32")
    return Model(params=params, adapter={})


def _with_base(params: Params, tuned: Model, folder: Path) -> Iterator[WeightChange]:
    """dW of an adapter, with the folder's W."""
    weights = weight_changes.of_folders(folder, folder)
    for change, weight in zip(weight_changes.of_model(params, tuned), weights, strict=True):
        yield dataclasses.replace(change, read_base=weight.read_base)


def hollow(cfg: ModelConfig) -> Params:
    """Parameters that have shapes and no memory: every value is one and the same zero."""
    zero = np.zeros((), np.float32)
    return spec.tree_map(lambda leaf: np.broadcast_to(zero, leaf.shape), llama.specs(cfg))


def open_base(name: str, code: Code = own_code.NOTHING) -> Base:
    """A base by path or name; a published one is fetched where it is not cached."""
    opened = pretrained.open_model(located(name))

    def load() -> LoadedModel:
        params = opened.load(opened.cfg, make_rules(), "float32")
        origin = Origin(str(opened.path), opened.quantised, tree.fingerprint(params))
        model = Model(params=params, adapter={})
        return LoadedModel(model, opened.cfg, opened.tokenizer(), origin)

    folder = opened.path if _is_model_folder(opened.path) else None
    source = assets.origin(name) or str(opened.path)
    return Base(source, opened.cfg, load, folder, opened.quantised, code)


def located(name: str) -> Path:
    """The path of a path or a name; what is published is fetched where it is not cached."""
    path = Path(name)
    # A path goes before an item of the manifest.
    if path.exists() or name.partition("@")[0] not in assets.manifest():
        return assets.local(name)
    fetching.fetch(assets.select([name]))
    return assets.path(name)


def named_base(place: Path) -> str:
    """The base that a PEFT folder names; "" where it names none, and for anything else."""
    if not (place / CONFIG).is_file():
        return ""
    return str(files.read_json_object(place / CONFIG).get("base_model_name_or_path") or "")


def _is_model_folder(path: Path) -> bool:
    # The directory of a run has a config.json, too.
    return (path / "config.json").is_file() and not (path / "checkpoints").is_dir()


def _is_model(path: Path) -> bool:
    return path.suffix == ".gguf" or (_is_model_folder(path) and not (path / CONFIG).is_file())
