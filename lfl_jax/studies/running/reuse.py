"""A run is a function of its config: one that another study has finished is not run again.

All studies whose folders share a parent are searched, PARENT/*/runs/*. The run's directory is then
copied, so that this study holds all that it reports; checkpoints, which nobody writes to again, are
links to the same files.
"""

import contextlib
import dataclasses
import glob
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.core.sharding import make_rules
from lfl_jax.data.sources import open_source
from lfl_jax.errors import UserError
from lfl_jax.io import workdir
from lfl_jax.report import results_json
from lfl_jax.run_setup import base_model, earlier_run
from lfl_jax.studies.running import derived

# In a copied run directory: where it comes from.
ORIGIN = "reused.json"
# Sections that change neither what is trained nor what is measured.
WITHOUT_EFFECT = ("log", "checkpoint")

# (a run's directory, its config) -> whether it is finished, with all that is wanted of it
IsFinished = Callable[[Path, Config], bool]


@dataclass(frozen=True)
class Known:
    """Run directories by the keys of their configs; bases: fingerprints that were computed."""

    by_key: Mapping[str, list[Path]]
    bases: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, studies: Path) -> "Known":
        """The runs of all studies in a folder."""
        by_key: dict[str, list[Path]] = defaultdict(list)
        for file in sorted(studies.glob(f"*/runs/*/{workdir.CONFIG_FILE}")):
            if (file.parent / derived.RECORD).exists():
                continue
            # A directory that this version cannot read is not one to reuse.
            with contextlib.suppress(UserError):
                by_key[key(earlier_run.read_config(file.parent))].append(file.parent)
        return cls(by_key)

    def take(
        self,
        config: Config,
        folder: Path,
        is_finished: IsFinished,
        starts: Sequence[Path] | None = None,
    ) -> Path | None:
        """Where a finished run of this config is, now also in `folder`; None without any.

        starts: where else the run lies that this one starts from; None for one that starts from
        the base.
        """
        other = self.find(config, is_finished, starts)
        if other is not None:
            copy(other, folder)
        return other

    def find(
        self, config: Config, is_finished: IsFinished, starts: Sequence[Path] | None = None
    ) -> Path | None:
        """The directory of a finished run of this config; None without any. starts: of `take`."""
        configs = [config] if starts is None else [_started_at(config, start) for start in starts]
        for wanted in configs:
            for other in self.by_key.get(key(wanted), ()):
                if is_finished(other, wanted) and self._is_current(other, wanted):
                    return other
        return None

    def _is_current(self, folder: Path, config: Config) -> bool:
        """Whether the run had the data and the base that its config names today."""
        facts = results_json.saved_facts(folder)
        if facts is None:
            return False
        recorded, finished = facts["provenance"], (folder / "results.json").stat().st_mtime
        return (
            recorded["data"]["sha256"] == open_source(config.data, "train", config.seed.data).sha256
            and recorded["base"]["fingerprint"] == self._fingerprint(config)
            # Evaluations read files, too, which nobody recorded by content: their times have to do.
            and all(file.stat().st_mtime < finished for file in _named_files(config))
        )

    def _fingerprint(self, config: Config) -> str:
        """Of the base, which is loaded for it the first time."""
        base = repr((config.model, config.model.init == "random" and config.seed.init))
        if base not in self.bases:
            self.bases[base] = base_model.load(config, make_rules()).origin.fingerprint
        return self.bases[base]


def origin(folder: Path) -> str:
    """Where the run of a directory was first done; "" for one that was done here."""
    file = folder / ORIGIN
    if not file.exists():
        return ""
    record = files.read_json_object(file)
    with files.expecting(file, "where the run was copied from"):
        # A name of no file is found out now, and not where it is looked for.
        Path(record["from"]).exists()
        return record["from"]


def origins(folder: Path) -> list[Path]:
    """Where else the run of a directory lies, or lay: what it was copied from, and that in turn."""
    folders = [folder]
    # A copy of a copy: each says where it was taken from.
    while (earlier := origin(folders[-1])) and Path(earlier) not in folders:
        folders.append(Path(earlier))
    return folders[1:]


def _started_at(config: Config, start: Path) -> Config:
    """The config of a study that has the run that it starts from in another place."""
    field = "over" if config.adapter.over else "path"
    return dataclasses.replace(
        config, adapter=dataclasses.replace(config.adapter, **{field: str(start)})
    )


def key(config: Config) -> str:
    """Equal for configs whose runs are the same, and are measured the same.

    `Config.hash` leaves out where files lie, since a directory is only resumed with equal contents:
    the contents of another directory's files are compared by nobody.
    """
    values = config.values()
    values = {name: x for name, x in values.items() if name not in WITHOUT_EFFECT}
    return json.dumps([values, sorted(config.own_files().items())], sort_keys=True)


def _named_files(config: Config) -> list[Path]:
    """Files and folders of this machine that the config names."""
    named: list[str] = []
    # A run to start from is known by its config: what is measured in its directory later is nothing
    # that was read.
    if config.adapter.start_config:
        adapter = dataclasses.replace(config.adapter, path="", over="")
        config = dataclasses.replace(config, adapter=adapter)
    config.with_places(lambda name: named.append(name) or name)
    return [Path(name) for name in named if name and Path(name).exists()]


def copy(source: Path, target: Path) -> None:
    """A run directory that appears complete, or not at all."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    # One process makes a directory; what is there is of one that was killed.
    for earlier in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        shutil.rmtree(earlier)
    with files.removed_on_error(partial):
        shutil.copytree(source, partial, copy_function=_link_checkpoints)
        files.write_json(partial / ORIGIN, {"from": str(source)})
        partial.replace(target)


def _link_checkpoints(source: str, target: str) -> None:
    # A link needs one file system; a checkpoint's files are never written to again.
    if "checkpoints" in Path(source).parts:
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copy2(source, target)
