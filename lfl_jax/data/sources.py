"""Named sources of examples, each with its licence, hash or seed, and whether it is synthetic or a stand-in."""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfl_jax import own_code
from lfl_jax.assets import hub_names, table_readers, table_splits, tables
from lfl_jax.config import DataConfig
from lfl_jax.data import columns, mixes
from lfl_jax.data.examples import Example
from lfl_jax.data.rows import TableExamples, read_split, read_whole
from lfl_jax.data.splits import SPLITS
from lfl_jax.errors import UserError

HASHED = 1000  # generated examples that enter a source's hash


@dataclass(frozen=True)
class HeldOut:
    """A file that somebody holds out for a split."""

    split: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Examples of one split, in random access, and where they come from.

    parts: of a mix, its sources in the order of their names, whose examples stand behind each other in `examples`,
    and `rates` how often each is drawn in one round of sum(rates) draws.
    """

    name: str
    split: str
    examples: Sequence[Example]
    licence: str
    sha256: str  # of the file, or of the first generated examples
    seed: int | None  # of the generator; None where nothing is generated
    synthetic: bool
    description: str
    stand_in_for: str | None = None  # the corpus that an embedded source takes the place of
    parts: tuple["Source", ...] = ()
    rates: tuple[int, ...] = ()
    columns: str = ""  # of a file: which are used, as what, and which are not
    held_out: tuple["HeldOut", ...] = ()  # files of the reader's own, of the training split

    @property
    def epoch(self) -> int:
        """Draws in one pass over the examples; of a mix, in one pass over its first source."""
        return (
            round(len(self.parts[0].examples) * sum(self.rates) / self.rates[0]) if self.parts else len(self.examples)
        )

    @property
    def flag(self) -> str:
        """What must be said wherever the source is named; empty for real data."""
        stands = f"STAND-IN FOR {self.stand_in_for}" if self.stand_in_for else ""
        return ", ".join(filter(None, ("SYNTHETIC" if self.synthetic else "", stands)))

    def provenance(self) -> dict[str, Any]:
        """What every result records about its data; of a mix, also of each part, with the share of its draws."""
        kept = ("name", "split", "licence", "sha256", "seed", "synthetic", "description", "stand_in_for")
        found = {name: getattr(self, name) for name in kept} | {"examples": len(self.examples)}
        found |= {"columns": self.columns} if self.columns else {}
        found |= {"held_out": [dataclasses.asdict(file) for file in self.held_out]} if self.held_out else {}
        shares = [rate / sum(self.rates) for rate in self.rates]
        parts = [{"share": share} | part.provenance() for share, part in zip(shares, self.parts, strict=True)]
        return found | ({"parts": parts} if parts else {})


def open_source(data: DataConfig, split: str, seed: int) -> Source:
    """The source that config.data names; config.data.path replaces it, and "tfds:DIR" is a prepared dataset.

    Splits are "train", "dev" and "test", and share no cluster; word_problems has "test_seen" and
    "test_unseen" (templates) in place of "test", and uuid's "dev" is its "train": what it measures is recall.
    Of a mix, such as "metamath:0.9,c4:0.1", the other splits are those of the first source: it is what is to be
    learned. Raises UserError for an unknown name or split.
    """
    named = mixes.parse(data.source)
    if data.path and len(named) > 1:
        raise UserError(f"config.data.path replaces one source, not {data.source!r}; write jsonl:FILE:WEIGHT in it")
    if own := _own_held_out(data).get(split):
        return _held_out(named[0], data, own, split)
    rates = mixes.rates([part.weight for part in named])
    parts = tuple(_open(part, data, split, seed) for part in (named if split == "train" else named[:1]))
    source = parts[0] if len(parts) == 1 else _mix(parts, rates, split)
    held_out = tuple(
        HeldOut(name, path, tables.digest(_of_split(Path(path), name))) for name, path in _own_held_out(data).items()
    )
    return dataclasses.replace(source, held_out=held_out if split == "train" else ())


def _own_held_out(data: DataConfig) -> dict[str, str]:
    """{split: file} of the held-out files of the reader's own."""
    return {split: path for split, path in (("dev", data.dev_path), ("test", data.test_path)) if path}


def _held_out(named: mixes.Named, data: DataConfig, path: str, split: str) -> Source:
    """A held-out file, read as the training source's kind is, whole."""
    if named.name in DOCUMENTS:
        return _document_source(Path(path).name, _of_split(Path(path), split), split, data, "unknown", path, ())
    examples = read_whole(Path(path), split, data.columns)
    return _file_source(Path(path).name, split, examples, examples.table.sha256, licence="unknown", about=path)


def _open(named: mixes.Named, data: DataConfig, split: str, seed: int) -> Source:
    name = named.name
    if own_code.is_place(f"{name}:{named.folder}"):
        return _own(f"{name}:{named.folder}", data, split, seed)
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"config.data.source={data.source!r} is unknown; {hint}there are: {', '.join(SOURCES)}, and your own as"
            " FILE.py:NAME"
        )
    name = REPLACED.get(name, name) if data.path else name
    return SOURCES[name](path=data.path or named.folder, split=split, data=data, seed=seed)


def _own(place: str, data: DataConfig, split: str, seed: int) -> Source:
    """What a function of one's own returns; examples without a Source around them count as synthetic."""
    function, name = own_code.find(data.code, "data.source", place, callable), own_code.split(place)[1]
    found = own_code.call(function, path=data.path, split=split, data=data, seed=seed)
    if isinstance(found, Source):
        return found
    examples = isinstance(found, Sequence) and not isinstance(found, str) and len(found) > 0
    if not examples or not isinstance(found[0], Example):
        raise UserError(
            f"data.source={place}, split {split!r}: expected a lfl_jax.data.sources.Source or a list of Examples, at"
            f" least one; got {f'{len(found)} of ' if hasattr(found, '__len__') else ''}{type(found).__name__}"
        )
    made = _generated(name, split, found, seed, f"examples that {place} makes, seed {seed}")
    return dataclasses.replace(made, licence="unknown")


def _mix(parts: tuple[Source, ...], rates: tuple[int, ...], split: str) -> Source:
    names = tuple(part.name for part in parts)
    shares = [f"{rate / sum(rates):.1%}" for rate in rates]
    hashed = hashlib.sha256(" ".join(f"{p.sha256} {share}" for p, share in zip(parts, shares, strict=True)).encode())
    stand_ins = [part.stand_in_for for part in parts if part.stand_in_for]
    return Source(
        name=",".join(f"{name}:{share}" for name, share in zip(names, shares, strict=True)),
        split=split,
        examples=mixes.Joined(names, tuple(part.examples for part in parts)),
        licence=" and ".join(dict.fromkeys(part.licence for part in parts)),
        sha256=hashed.hexdigest(),
        seed=next((part.seed for part in parts if part.seed is not None), None),
        synthetic=any(part.synthetic for part in parts),
        description="; ".join(f"{share} {p.description}" for p, share in zip(parts, shares, strict=True)),
        stand_in_for=", ".join(stand_ins) or None,
        parts=parts,
        rates=rates,
    )


REPLACED = {  # what a file in the place of a generated or embedded source is read as
    "word_problems": "jsonl",
    "uuid": "jsonl",
    "docstring_functions": "jsonl",
    "python_source": "documents",
    "math_text": "documents",
}
# Sources of text without prompts, whose held-out files are such text, too; those of others are as jsonl's.
DOCUMENTS = ("python_source", "math_text", "starcoder_python", "openwebmath", "c4", "documents")
TEST_SPLITS: dict[str, tuple[str, ...]] = {  # others: "test"
    "word_problems": ("test_seen", "test_unseen"),
    "uuid": ("train",),
}


def held_out_splits(data: DataConfig) -> tuple[str, ...]:
    """Splits to test on; of the word problems, templates seen in training and others; of uuid, the training pairs."""
    return ("test",) if data.path or data.test_path else TEST_SPLITS.get(mixes.parse(data.source)[0].name, ("test",))


def word_problems(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Generated grade-school word problems, `data.size` in every split, levels at the rates `data.levels`."""
    from lfl_jax.data import word_problems as generator

    examples = generator.source(seed, split, data.size, data.levels)
    return _generated("word_problems", split, examples, seed, generator.describe(seed, data.levels))


def uuid(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Random UUID pairs, `data.size` of them."""
    from lfl_jax.data import uuid_pairs as generator

    options = {"prompt": data.uuid_prompt, "hyphens": data.uuid_hyphens}
    examples = generator.source(seed, split, data.size, **options)
    return _generated("uuid", split, examples, seed, generator.describe(seed))


def math_text(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The word problems as documents, `data.size` of them: for continued pretraining."""
    from lfl_jax.data import math_text as generator

    examples = generator.source(seed, split, data.size)
    made = _generated("math_text", split, examples, seed, generator.describe(seed))
    return dataclasses.replace(made, stand_in_for="OpenWebMath")


def python_source(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The files of Python's standard library as documents."""
    from lfl_jax.data import standard_library as library

    return _library("python_source", split, library.documents(split), "StarCoder-Python", "files")


def docstring_functions(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Functions of Python's standard library: signature and docstring, to be answered with the body."""
    from lfl_jax.data import standard_library as library

    return _library("docstring_functions", split, library.functions(split), "Magicoder-Evol-Instruct", "functions")


def gsm8k(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """GSM8K's training questions (never its test set), fetched or from `path`."""
    return _hub_file("gsm8k", "gsm8k-train", path, split, data)


def metamath(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """MetaMathQA, fetched or from `path`; rewrites of one question stay in one split."""
    return _hub_file("metamath", "metamathqa", path, split, data)


def magicoder(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Magicoder-Evol-Instruct, fetched or from `path`."""
    return _hub_file("magicoder", "magicoder-evol-instruct-110k", path, split, data)


def starcoder_python(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """StarCoder's Python files as documents, fetched or from `path`."""
    return _hub_documents("starcoder_python", "starcoder-python", path, split, data)


def openwebmath(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """OpenWebMath's pages as documents, fetched or from `path`."""
    return _hub_documents("openwebmath", "openwebmath", path, split, data)


def c4(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A part of C4 as documents, to be replayed, fetched or from `path`."""
    return _hub_documents("c4", "c4", path, split, data)


def documents(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The reader's own documents: a file or folder whose rows have a field text or content."""
    if not path:
        raise UserError("config.data.source=documents needs config.data.path=FILE.jsonl (or .parquet, or a folder)")
    return _own_documents(Path(path), split, data)


def jsonl(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The reader's own file or folder of prompts and responses, or conversations."""
    if not path:
        raise UserError("config.data.source=jsonl needs config.data.path=FILE.jsonl")
    examples = read_split(Path(path), split, data.columns, tuple(_own_held_out(data)))
    return _file_source(Path(path).name, split, examples, examples.table.sha256, **_terms(path))


def hf(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A dataset of a hub, hf:ORG/NAME[@REVISION][:CONFIG][:SPLIT]: prompts and responses, or conversations."""
    if not path:
        raise UserError("config.data.source=hf needs a dataset: hf:ORG/NAME:CONFIG:SPLIT")
    place = path if hub_names.is_hub(path) else hub_names.PREFIX + path
    return jsonl(path=place, split=split, data=data, seed=seed)


def _terms(path: str) -> dict[str, str]:
    """Licence and description of a reader's own file, or of a dataset of a hub, which says its own."""
    if not hub_names.is_hub(path):
        return {"licence": "unknown", "about": path}
    from lfl_jax import assets

    name = hub_names.dataset(path)
    return {"licence": assets.licence(name), "about": assets.origin(name)}


def tfds(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A dataset prepared by tensorflow-datasets, in the array_record format."""
    from lfl_jax.data.tfds_source import read_tfds

    if not path:
        raise UserError("config.data.source=tfds needs the folder of a prepared dataset: tfds:DIR")
    examples, sha256 = read_tfds(Path(path), split, data.columns, tuple(_own_held_out(data)))
    return _file_source(examples.table.name, split, examples, sha256, licence="unknown", about=path)


def reasoning_gym(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Generated problems of a task of reasoning_gym, reasoning_gym:TASK, `data.size` of them in all splits."""
    from lfl_jax.data import gym_problems

    if not path:
        raise UserError("config.data.source=reasoning_gym needs a task: reasoning_gym:chain_sum")
    examples = gym_problems.source(path, split, data.size, seed)
    about = f"generated problems of reasoning_gym {gym_problems.version()}, task {path}, seed {seed}"
    return _generated(f"reasoning_gym:{path}", split, examples, seed, about)


SOURCES: dict[str, Callable[..., Source]] = {
    "word_problems": word_problems,
    "uuid": uuid,
    "gsm8k": gsm8k,
    "metamath": metamath,
    "magicoder": magicoder,
    "math_text": math_text,
    "python_source": python_source,
    "docstring_functions": docstring_functions,
    "starcoder_python": starcoder_python,
    "openwebmath": openwebmath,
    "c4": c4,
    "documents": documents,
    "jsonl": jsonl,
    "hf": hf,
    "tfds": tfds,
    "reasoning_gym": reasoning_gym,
}


def examples_sha256(examples: Iterable[Example]) -> str:
    """Hash of the content of examples, in order."""
    sha256 = hashlib.sha256()
    for e in examples:
        for text in (e.prompt, e.response, e.id, e.cluster, *(text for turn in e.turns for text in turn)):
            sha256.update(f"{len(text)}:{text}".encode())
    return sha256.hexdigest()


def _generated(name: str, split: str, examples: Sequence[Example], seed: int, about: str) -> Source:
    sha256 = examples_sha256(examples[i] for i in range(min(len(examples), HASHED)))
    return Source(name, split, examples, "Apache-2.0", sha256, seed, True, about)


def _hub_file(name: str, item: str, path: str, split: str, data: DataConfig) -> Source:
    from lfl_jax import assets

    file = Path(path) if path else _data_file(item)
    examples = read_split(file, split, data.columns, tuple(_own_held_out(data)))
    about = assets.manifest()[item].about
    return _file_source(name, split, examples, examples.table.sha256, licence=assets.licence(item), about=about)


def _hub_documents(name: str, item: str, path: str, split: str, data: DataConfig) -> Source:
    from lfl_jax import assets

    if path:
        own = _own_documents(Path(path), split, data)
        return dataclasses.replace(
            own, name=name, licence=assets.licence(item), description=assets.manifest()[item].about
        )
    files, sha256 = _document_files(item)
    about = assets.manifest()[item].about
    return _document_source(name, files, split, data, assets.licence(item), about, _carved(data), sha256)


def _carved(data: DataConfig, own: Iterable[str] = ()) -> tuple[str, ...]:
    """Held-out splits that are taken from the training documents: those that no file holds."""
    return tuple(split for split in SPLITS[1:] if split not in own and split not in _own_held_out(data))


def _document_files(item: str) -> tuple[list[Path], str]:
    """An item's files of documents, and the hash of their hashes, as they were taken when it was fetched."""
    from lfl_jax import assets

    folder, found = assets.path(item), assets.provenance(item)["files"]
    files = sorted(filter(table_readers.is_table, found))
    if not files:
        raise UserError(f"{item}: expected files of documents in {folder}, found {', '.join(found) or 'none'}")
    hashed = hashlib.sha256("".join(found[file]["sha256"] for file in files).encode())
    return [folder / file for file in files], hashed.hexdigest()


def _own_documents(path: Path, split: str, data: DataConfig) -> Source:
    """A split of somebody's documents: the folder's own where it has some, else 2 % of the training documents."""
    own = table_splits.files_by_split(path)
    has_split = split != "train" and split in own
    files, carved = (own[split], ()) if has_split else (own["train"], _carved(data, own))
    return _document_source(path.name, files, split, data, "unknown", str(path), carved)


def _of_split(path: Path, split: str) -> list[Path]:
    """The files of one split, or all where there is only one."""
    own = table_splits.files_by_split(path)
    return own.get(split) or own["train"]


def _document_source(
    name: str,
    files: Sequence[Path],
    split: str,
    data: DataConfig,
    licence: str,
    about: str,
    carved: tuple[str, ...],
    sha256: str | None = None,
) -> Source:
    from lfl_jax.data.documents import read_documents

    (column,) = columns.parse(data.columns).text or ("",)
    examples = read_documents(files, split, column, carved)
    return Source(name, split, examples, licence, sha256 or tables.digest(files), None, False, about)


def _library(name: str, split: str, examples: Sequence[Example], stand_in_for: str, what: str) -> Source:
    from lfl_jax.data import standard_library as library

    about = library.describe(stand_in_for, len(examples), what)
    return Source(name, split, examples, library.LICENCE, library.sha256(), None, False, about, stand_in_for)


def _data_file(item: str) -> Path:
    from lfl_jax import assets

    folder = assets.path(item)
    files = [file for file in assets.provenance(item)["files"] if table_readers.is_table(file)]
    if len(files) != 1:
        raise UserError(f"{item}: expected one data file in {folder}, found {', '.join(files) or 'none'}")
    return folder / files[0]


def _file_source(name: str, split: str, examples: TableExamples, sha256: str, licence: str, about: str) -> Source:
    return Source(name, split, examples, licence, sha256, None, False, about, columns=examples.used)
