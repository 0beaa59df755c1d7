"""A run's config: ml_collections on the outside, validated frozen dataclasses inside, turned
once."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lfl_jax.config import locations, own_code
from lfl_jax.config.own_code import Allowed, Code, Own, Passed
from lfl_jax.config.sections import (
    LATER,
    AdapterConfig,
    AnalysisConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    LogConfig,
    MeshConfig,
    ModelSection,
    OptimConfig,
    PenaltyConfig,
    SeedConfig,
    TrainConfig,
    options,
)
from lfl_jax.errors import mistakes


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run. Fields are documented, with units and legal values, in configs/base.py."""

    model: ModelSection
    adapter: AdapterConfig
    trainable: tuple[str, ...]
    optim: OptimConfig
    train: TrainConfig
    data: DataConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    mesh: MeshConfig
    seed: SeedConfig
    log: LogConfig
    penalty: PenaltyConfig = dataclasses.field(default=PenaltyConfig(), metadata=LATER)
    analysis: AnalysisConfig = dataclasses.field(default=AnalysisConfig(), metadata=LATER)

    @classmethod
    def from_dict(cls, values: Any) -> "Config":
        """From a ConfigDict or nested dict.

        UserError for unknown or missing fields, wrong types, contradictions.
        """
        config, problems = cls.read(values)
        if problems:
            raise mistakes(problems)
        return config

    @classmethod
    def read(cls, values: Any) -> tuple["Config | None", list[str]]:
        """From a ConfigDict or nested dict: (the config, its problems).

        The config is None where a field is wrong, and may contradict itself where none is.
        """
        # Imported here: both read the dataclasses of this module.
        from lfl_jax.config import checks
        from lfl_jax.config import values as config_values

        problems: list[str] = []
        config = config_values.build(cls, values, "config", problems)
        return config, problems or checks.contradictions(config)

    @classmethod
    def from_record(cls, values: dict, code: Code = own_code.NOTHING) -> "Config":
        """From the JSON object of a run directory; fields newer than the run have their default.

        code: what of the files that it names may run. What a record says is never enough.
        """
        from lfl_jax.config import values as config_values
        from lfl_jax.configs import base

        # JSON has lists where a config has tuples, and an older run lacks newer fields.
        given = config_values.with_defaults(config_values.as_tuples(values), base.base().to_dict())
        return cls.from_dict(given).with_code(lambda _: code)

    def with_places(self, change: locations.Change) -> "Config":
        """Every place on this machine that the config names (`locations.FIELDS`), changed."""
        sections: dict[str, dict] = {}
        for path, apply in locations.FIELDS.items():
            section, field = path.split(".")
            value = getattr(getattr(self, section), field)
            sections.setdefault(section, {})[field] = apply(value, change)
        changed = {
            name: dataclasses.replace(getattr(self, name), **fields)
            for name, fields in sections.items()
        }
        return dataclasses.replace(self, **changed)

    def with_code(self, change: Callable[[Code], Code]) -> "Config":
        """The config with other code allowed in the sections that name objects of one's own."""
        # Code is compared with the config, so sections that need none keep the same empty value.
        named = {field.partition(".")[0] for field, _ in self.own_places()}
        sections = {name: getattr(self, name) for name in named}
        changed = {
            name: dataclasses.replace(x, code=change(x.code)) for name, x in sections.items()
        }
        return dataclasses.replace(self, **changed)

    def own_places(self) -> list[tuple[str, str]]:
        """(field, FILE.py:NAME or python:NAME) of every object of one's own that is named."""
        values = {
            path: getattr(getattr(self, path.split(".")[0]), path.split(".")[1])
            for path in own_code.FIELDS
        }
        return [
            (path, reference)
            for path, value in values.items()
            for reference in own_code.places(path, value)
        ]

    def own_files(self) -> dict[str, str]:
        """{FILE.py: its SHA-256 now} of every file that the config names an object of."""
        named = [
            (getattr(self, path.partition(".")[0]).code, reference)
            for path, reference in self.own_places()
        ]
        files = {own_code.split(reference)[0]: code.digest(reference) for code, reference in named}
        return {file: sha256 for file, sha256 in files.items() if file != own_code.PASSED}

    def with_record(self, record: Mapping[str, Any]) -> "Config":
        """The config with the hashes that a record has, {FILE.py: SHA-256}.

        Files with other hashes may not run.
        """
        recorded = own_code.as_recorded([reference for _, reference in self.own_places()], record)
        return self.with_code(lambda code: dataclasses.replace(code, recorded=recorded))

    def allowing(self, files: Iterable[str | Allowed]) -> "Config":
        """The config with these files allowed to run, too: FILE.py or FILE.py@HASH each."""
        allowed = tuple(Allowed.parse(file) if isinstance(file, str) else file for file in files)
        return self.with_code(
            lambda code: dataclasses.replace(code, allowed=(*code.allowed, *allowed))
        )

    def with_own(self, own: Own) -> "Config":
        """The config with each of these objects where its field can name it.

        One that the config names by itself stays where it is. Tasks that config.eval does not name
        are evaluated on all their items, before and after.
        """
        config = self
        for path, field in own_code.FIELDS.items():
            value = getattr(own, field.argument)
            # Tasks are added to a list below; every other field names one object.
            if value is not None and field.argument != "tasks":
                config = config._with_own(path, value)
        e = config.eval
        named = e.items((*e.tasks, *e.base_tasks, *e.every_tasks))
        added = tuple(task.name for task in own.tasks if task.name not in named)
        return dataclasses.replace(config, eval=dataclasses.replace(e, tasks=(*e.tasks, *added)))

    def _with_own(self, path: str, value: Any) -> "Config":
        section, field = path.split(".")
        reference, old = own_code.place_of(value), getattr(self, section)
        name = own_code.split(reference)[1]
        # A config that names the object itself keeps its reference, with a number of items, say.
        named = [own_code.split(known)[1] for known in own_code.places(path, getattr(old, field))]
        code = old.code.with_passed([Passed(own_code.FIELDS[path].argument, name, value)])
        changed = {"code": code} if name in named else {"code": code, field: reference}
        return dataclasses.replace(self, **{section: dataclasses.replace(old, **changed)})

    def values(self) -> dict[str, Any]:
        """The options as nested dicts of plain values."""
        sections = {field.name: getattr(self, field.name) for field in options(self)}
        return {
            name: _values(x) if dataclasses.is_dataclass(x) else x for name, x in sections.items()
        }

    def to_json(self) -> str:
        """Canonical JSON, as written to the run directory."""
        return json.dumps(self.values(), indent=1, sort_keys=True)

    def hash(self) -> str:
        """12 hex digits of what the config trains.

        Sections that may change between resumed runs do not count. Nor does where files lie on this
        machine: what is in them is compared by content (base, data, evaluation items).
        """
        # Every path is the same word, so that a moved file is no other config.
        anywhere = self.with_places(
            lambda path: path if not path or path.startswith(locations.SHARED) else "here"
        )
        # Sorted keys: the hash is of the values, not of the order in which fields were written.
        values = {name: x for name, x in _hashed(anywhere).items() if name not in MAY_CHANGE}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _values(section: Any) -> dict[str, Any]:
    return {field.name: getattr(section, field.name) for field in options(section)}


def _hashed(section: Any) -> dict[str, Any]:
    """The options as nested dicts, without later ones that have their default."""
    values = {}
    for field in options(section):
        value = getattr(section, field.name)
        if field.metadata.get("later") and value == field.default:
            continue
        values[field.name] = _hashed(value) if dataclasses.is_dataclass(value) else value
    return values


def parse(
    argv: Sequence[str], usage: str, extra: dict[str, tuple[Any, str]]
) -> tuple[Config, dict[str, Any]]:
    """`command_line.parse`: config and values of the extra flags."""
    from lfl_jax.config import command_line

    return command_line.parse(argv, usage, extra)


# Sections that may differ when a run is resumed: they change what is printed, measured or kept, not
# what is trained.
MAY_CHANGE = ("log", "checkpoint", "mesh", "eval", "analysis")
