"""Named sources of examples, each with its licence, hash or seed, and whether it is synthetic."""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lfl_jax.config import DataConfig, locations, own_code
from lfl_jax.core.files import sha256_of_files
from lfl_jax.data import file_sources, generated_sources, mixes, shuffled
from lfl_jax.data.examples import Example, HeldOut, Source
from lfl_jax.data.file_sources import (
    FetchedDocuments,
    FetchedTable,
    Origin,
    document_source,
    files_of_split,
    held_out_files,
    table_source,
)
from lfl_jax.data.mixes import SourceName
from lfl_jax.data.rows import read_whole
from lfl_jax.errors import UserError


@dataclass(frozen=True)
class SourceKind:
    """How the source of one name is opened.

    open: called with path, split, data (the config section) and seed, all by name.
    documents: its files are text without prompts, and so are held-out files beside it.
    in_its_place: the source that reads config.data.path, for sources that need no file themselves.
    test_splits: the splits to test on, where no file is in its place.
    """

    open: Callable[..., Source]
    documents: bool = False
    in_its_place: str = ""
    test_splits: tuple[str, ...] = ("test",)


SOURCES: dict[str, SourceKind] = {
    "word_problems": SourceKind(
        generated_sources.word_problems,
        in_its_place="jsonl",
        test_splits=("test_seen", "test_unseen"),
    ),
    # It measures recall, so that it is tested on what it trains on.
    "uuid": SourceKind(generated_sources.uuid, in_its_place="jsonl", test_splits=("train",)),
    "gsm8k": SourceKind(FetchedTable("gsm8k", "gsm8k-train")),  # its test set is never a source
    "metamath": SourceKind(FetchedTable("metamath", "metamathqa")),
    "magicoder": SourceKind(FetchedTable("magicoder", "magicoder-evol-instruct-110k")),
    "math_text": SourceKind(generated_sources.math_text, documents=True, in_its_place="documents"),
    "python_source": SourceKind(
        generated_sources.python_source, documents=True, in_its_place="documents"
    ),
    "docstring_functions": SourceKind(generated_sources.docstring_functions, in_its_place="jsonl"),
    "starcoder_python": SourceKind(
        FetchedDocuments("starcoder_python", "starcoder-python"), documents=True
    ),
    "openwebmath": SourceKind(FetchedDocuments("openwebmath", "openwebmath"), documents=True),
    "c4": SourceKind(FetchedDocuments("c4", "c4"), documents=True),
    "wikipedia_paragraphs": SourceKind(
        generated_sources.wikipedia_paragraphs, documents=True, in_its_place="documents"
    ),
    "documents": SourceKind(file_sources.documents, documents=True),
    "jsonl": SourceKind(file_sources.jsonl),
    "hf": SourceKind(file_sources.hf),
    "tfds": SourceKind(file_sources.tfds),
    "reasoning_gym": SourceKind(generated_sources.reasoning_gym),
    "lab_source": SourceKind(generated_sources.lab_source, in_its_place="jsonl"),
    "lab_ift": SourceKind(generated_sources.lab_ift, in_its_place="jsonl"),
    "lab_new_facts": SourceKind(generated_sources.lab_new_facts, in_its_place="jsonl"),
    "lab_further_facts": SourceKind(generated_sources.lab_further_facts, in_its_place="jsonl"),
    "lab_keys": SourceKind(generated_sources.lab_keys, in_its_place="jsonl"),
    "lab_cpt": SourceKind(generated_sources.lab_cpt, documents=True, in_its_place="documents"),
}


def open_source(data: DataConfig, split: str, seed: int) -> Source:
    """The source that config.data names; config.data.path replaces it, and "tfds:DIR" is a dataset.

    Splits are "train", "dev" and "test", and share no cluster. word_problems has "test_seen" and
    "test_unseen" (templates) in place of "test"; uuid's "dev" is its "train", and the splits of
    lab_keys, lab_new_facts and lab_further_facts are all the same, since these measure recall.
    "train" is what the run trains on, such as the mix "metamath:0.9,c4:0.1"; the others are
    `open_tested`. seed: of generated sources, where data.seed is None. Raises UserError for an
    unknown name or split.
    """
    if split != "train":
        return open_tested(data, split, seed)

    seed = seed if data.seed is None else data.seed
    # The first source may have weight 0: tested on, and not trained on.
    named = [part for part in _parts(data) if part.weight]
    rates = mixes.rates([part.weight for part in named])
    parts = [_open(part, data, split, seed) for part in named]
    if data.shuffle_responses:
        # What is replayed beside the target stays as it is.
        parts[0] = shuffled.source(parts[0], seed, data.loss_turns)
    source = parts[0] if len(parts) == 1 else _mix(tuple(parts), rates, split)

    # The training source records them, since they are part of what the run is tested on.
    held_out = held_out_files(data)
    files = {name: files_of_split(Path(path), name) for name, path in held_out.items()}
    records = [HeldOut(name, held_out[name], sha256_of_files(files[name])) for name in held_out]
    return dataclasses.replace(source, held_out=tuple(records))


def open_tested(data: DataConfig, split: str, seed: int) -> Source:
    """A split of the first source, which is what is to be learned: all that evaluations read.

    Whatever is mixed into the training, or takes its place, changes nothing here. Arguments and
    errors are those of `open_source`; "train" is for few-shot examples and for tests of recall.
    """
    named = _parts(data)[0]
    # A file of your own for this split goes before everything else.
    held_out = held_out_files(data)
    if split in held_out:
        return _open_held_out(named, data, held_out[split], split)
    return _open(named, data, split, seed if data.seed is None else data.seed)


def _parts(data: DataConfig) -> tuple[SourceName, ...]:
    """The named sources; UserError for a file in place of several, or one that is missing."""
    parts = mixes.parse(data.source)
    if data.path and len(parts) > 1:
        raise UserError(
            f"config.data.path replaces one source, not {data.source!r}; write jsonl:FILE:WEIGHT in"
            " it"
        )
    _require_files(data)
    return parts


def held_out_splits(data: DataConfig) -> tuple[str, ...]:
    """The splits to test on."""
    name = mixes.parse(data.source)[0].name
    if data.path or data.test_path or name not in SOURCES:
        return ("test",)
    return SOURCES[name].test_splits


def _require_files(data: DataConfig) -> None:
    """UserError for a missing file of your own: a run may have been moved away from its data."""
    for field in ("path", "dev_path", "test_path"):
        path = getattr(data, field)
        if path and not path.startswith(locations.SHARED) and not Path(path).exists():
            raise UserError(
                f"no data file {path}; name where it is now with --config.data.{field}=PATH"
            )


def _open_held_out(named: SourceName, data: DataConfig, path: str, split: str) -> Source:
    """A held-out file, all of it, read in the format of the training source."""
    origin = Origin(Path(path).name, "unknown", path)
    if named.name in SOURCES and SOURCES[named.name].documents:
        return document_source(origin, split, files_of_split(Path(path), split), data, carved=())
    examples = read_whole(Path(path), split, data.columns)
    return table_source(origin, split, examples, examples.table.sha256)


def _open(named: SourceName, data: DataConfig, split: str, seed: int) -> Source:
    name = named.name
    if own_code.is_place(f"{name}:{named.folder}"):
        return _open_own(f"{name}:{named.folder}", data, split, seed)
    if name not in SOURCES:
        similar = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {similar[0]!r}? " if similar else ""
        raise UserError(
            f"config.data.source={data.source!r} is unknown; {hint}there are: {', '.join(SOURCES)},"
            " and your own as FILE.py:NAME"
        )
    kind = SOURCES[name]
    if data.path and kind.in_its_place:
        kind = SOURCES[kind.in_its_place]
    return kind.open(path=data.path or named.folder, split=split, data=data, seed=seed)


def _open_own(reference: str, data: DataConfig, split: str, seed: int) -> Source:
    """What your function returns; examples without a Source around them count as synthetic.

    reference: FILE.py:NAME.
    """
    function = own_code.find(data.code, "data.source", reference, callable)
    result = own_code.call(function, path=data.path, split=split, data=data, seed=seed)
    if isinstance(result, Source):
        return result

    is_sequence = isinstance(result, Sequence) and not isinstance(result, str)
    if not is_sequence or not result or not isinstance(result[0], Example):
        size = f"{len(result)} of " if hasattr(result, "__len__") else ""
        raise UserError(
            f"data.source={reference}, split {split!r}: expected a lfl_jax.data.sources.Source or a"
            f" list of Examples, at least one; got {size}{type(result).__name__}"
        )
    name, about = own_code.split(reference)[1], f"examples that {reference} makes, seed {seed}"
    source = generated_sources.generated(name, split, result, seed, about)
    return dataclasses.replace(source, licence="unknown")


def _mix(parts: tuple[Source, ...], rates: tuple[int, ...], split: str) -> Source:
    """The sources concatenated, to be drawn at these rates."""
    names, hashes, descriptions = [], [], []
    for part, rate in zip(parts, rates, strict=True):
        share = f"{rate / sum(rates):.1%}"
        names.append(f"{part.name}:{share}")
        # The hash covers the shares: the same files at other rates are other training data.
        hashes.append(f"{part.sha256} {share}")
        descriptions.append(f"{share} {part.description}")

    seeds = [part.seed for part in parts if part.seed is not None]
    licences = dict.fromkeys(part.licence for part in parts)
    stand_ins = [part.stand_in_for for part in parts if part.stand_in_for]
    is_synthetic = any(part.synthetic for part in parts)
    is_shuffled = any(part.shuffled for part in parts)
    return Source(
        name=",".join(names),
        split=split,
        examples=mixes.ConcatenatedExamples.of(parts),
        licence=" and ".join(licences),
        sha256=hashlib.sha256(" ".join(hashes).encode()).hexdigest(),
        seed=seeds[0] if seeds else None,
        synthetic=is_synthetic,
        description="; ".join(descriptions),
        stand_in_for=", ".join(stand_ins) or None,
        parts=parts,
        rates=rates,
        shuffled=is_shuffled,
    )
