"""Named sources of examples, each with its licence, hash or seed, and whether it is synthetic."""

import difflib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lfl_jax.config import DataConfig
from lfl_jax.data.examples import Example
from lfl_jax.data.rows import READERS, TableExamples, read_table, split_examples
from lfl_jax.errors import UserError

HASHED = 1000  # generated examples that enter a source's hash


@dataclass(frozen=True)
class Source:
    """Examples of one split, in random access, and where they come from."""

    name: str
    split: str
    examples: Sequence[Example]
    licence: str
    sha256: str  # of the file, or of the first generated examples
    seed: int | None  # of the generator; None where nothing is generated
    synthetic: bool
    description: str

    def provenance(self) -> dict[str, str | int | bool | None]:
        """What every result records about its data."""
        kept = ("name", "split", "licence", "sha256", "seed", "synthetic", "description")
        return {name: getattr(self, name) for name in kept} | {"examples": len(self.examples)}


def open_source(data: DataConfig, split: str, seed: int) -> Source:
    """The source that config.data names; config.data.path replaces it, and "tfds:DIR" is a prepared dataset.

    Splits are "train", "dev" and "test", and share no cluster; word_problems has "test_seen" and
    "test_unseen" (templates) in place of "test", and uuid's "dev" is its "train": what it measures is recall.
    Raises UserError for an unknown name or split.
    """
    name, _, folder = data.source.partition(":")
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"config.data.source={data.source!r} is unknown; {hint}there are: {', '.join(SOURCES)}")
    if data.path and name in ("word_problems", "uuid"):
        name = "jsonl"  # a file takes the place of the generator
    return SOURCES[name](path=data.path or folder, split=split, data=data, seed=seed)


TEST_SPLITS: dict[str, tuple[str, ...]] = {  # others: "test"
    "word_problems": ("test_seen", "test_unseen"),
    "uuid": ("train",),
}


def held_out_splits(data: DataConfig) -> tuple[str, ...]:
    """Splits to test on; of the word problems, templates seen in training and others; of uuid, the training pairs."""
    return ("test",) if data.path else TEST_SPLITS.get(data.source, ("test",))


def word_problems(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Generated grade-school word problems, `data.size` in every split."""
    from lfl_jax.data import word_problems as generator

    return _generated("word_problems", split, generator.source(seed, split, data.size), seed, generator.describe(seed))


def uuid(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Random UUID pairs, `data.size` of them."""
    from lfl_jax.data import uuid_pairs as generator

    options = {"prompt": data.uuid_prompt, "hyphens": data.uuid_hyphens}
    examples = generator.source(seed, split, data.size, **options)
    return _generated("uuid", split, examples, seed, generator.describe(seed))


def gsm8k(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """GSM8K's training questions (never its test set), fetched or from `path`."""
    return _hub_file("gsm8k", "gsm8k-train", path, split)


def metamath(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """MetaMathQA, fetched or from `path`; rewrites of one question stay in one split."""
    return _hub_file("metamath", "metamathqa", path, split)


def jsonl(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The reader's own file."""
    if not path:
        raise UserError("config.data.source=jsonl needs config.data.path=FILE.jsonl")
    examples = split_examples(read_table(Path(path)), split)
    return _file_source(Path(path).name, split, examples, examples.table.sha256, licence="unknown", about=path)


def tfds(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A dataset prepared by tensorflow-datasets, in the array_record format."""
    from lfl_jax.data.tfds_source import read_tfds

    if not path:
        raise UserError("config.data.source=tfds needs the folder of a prepared dataset: tfds:DIR")
    examples, sha256 = read_tfds(Path(path), split)
    return _file_source(examples.table.name, split, examples, sha256, licence="unknown", about=path)


SOURCES: dict[str, Callable[..., Source]] = {
    "word_problems": word_problems,
    "uuid": uuid,
    "gsm8k": gsm8k,
    "metamath": metamath,
    "jsonl": jsonl,
    "tfds": tfds,
}


def examples_sha256(examples: Iterable[Example]) -> str:
    """Hash of the content of examples, in order."""
    sha256 = hashlib.sha256()
    for e in examples:
        for text in (e.prompt, e.response, e.id, e.cluster):
            sha256.update(f"{len(text)}:{text}".encode())
    return sha256.hexdigest()


def _generated(name: str, split: str, examples: Sequence[Example], seed: int, about: str) -> Source:
    sha256 = examples_sha256(examples[i] for i in range(min(len(examples), HASHED)))
    return Source(name, split, examples, "Apache-2.0", sha256, seed, True, about)


def _hub_file(name: str, item: str, path: str, split: str) -> Source:
    from lfl_jax import assets

    examples = split_examples(read_table(Path(path) if path else _data_file(item)), split)
    about = assets.manifest()[item].about
    return _file_source(name, split, examples, examples.table.sha256, licence=assets.licence(item), about=about)


def _data_file(item: str) -> Path:
    from lfl_jax import assets

    folder = assets.path(item)
    files = [f for f in assets.provenance(item)["files"] if f.endswith((*READERS, ".jsonl.gz"))]
    if len(files) != 1:
        raise UserError(f"{item}: expected one data file in {folder}, found {', '.join(files) or 'none'}")
    return folder / files[0]


def _file_source(name: str, split: str, examples: TableExamples, sha256: str, licence: str, about: str) -> Source:
    return Source(name, split, examples, licence, sha256, None, False, about)
