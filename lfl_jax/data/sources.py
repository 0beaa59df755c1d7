"""Named sources of examples, each with its licence, hash or seed, and whether it is synthetic or a
stand-in."""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from lfl_jax.config import DataConfig, locations, own_code
from lfl_jax.core.files import sha256_of_files
from lfl_jax.data import file_sources, generated_sources, mixes
from lfl_jax.data.examples import Example, HeldOut, Source
from lfl_jax.data.file_sources import document_source, file_source, of_split, own_held_out
from lfl_jax.data.rows import read_whole
from lfl_jax.errors import UserError

SOURCES: dict[str, Callable[..., Source]] = {
    "word_problems": generated_sources.word_problems,
    "uuid": generated_sources.uuid,
    "gsm8k": file_sources.gsm8k,
    "metamath": file_sources.metamath,
    "magicoder": file_sources.magicoder,
    "math_text": generated_sources.math_text,
    "python_source": generated_sources.python_source,
    "docstring_functions": generated_sources.docstring_functions,
    "starcoder_python": file_sources.starcoder_python,
    "openwebmath": file_sources.openwebmath,
    "c4": file_sources.c4,
    "documents": file_sources.documents,
    "jsonl": file_sources.jsonl,
    "hf": file_sources.hf,
    "tfds": file_sources.tfds,
    "reasoning_gym": generated_sources.reasoning_gym,
}
REPLACED = {  # what a file in the place of a generated or embedded source is read as
    "word_problems": "jsonl",
    "uuid": "jsonl",
    "docstring_functions": "jsonl",
    "python_source": "documents",
    "math_text": "documents",
}
# Sources of text without prompts, whose held-out files are such text, too; those of others are as
# jsonl's.
DOCUMENTS = ("python_source", "math_text", "starcoder_python", "openwebmath", "c4", "documents")
TEST_SPLITS: dict[str, tuple[str, ...]] = {  # others: "test"
    "word_problems": ("test_seen", "test_unseen"),
    "uuid": ("train",),
}


def open_source(data: DataConfig, split: str, seed: int) -> Source:
    """The source that config.data names; config.data.path replaces it, and "tfds:DIR" is a prepared
    dataset.

    Splits are "train", "dev" and "test", and share no cluster; word_problems has "test_seen" and
    "test_unseen" (templates) in place of "test", and uuid's "dev" is its "train": what it measures
    is recall. Of a mix, such as "metamath:0.9,c4:0.1", the other splits are those of the first
    source: it is what is to be learned. Raises UserError for an unknown name or split.
    """
    named = mixes.parse(data.source)
    if data.path and len(named) > 1:
        raise UserError(
            f"config.data.path replaces one source, not {data.source!r}; write jsonl:FILE:WEIGHT in"
            " it"
        )
    _require_files(data)
    if own := own_held_out(data).get(split):
        return _held_out(named[0], data, own, split)
    rates = mixes.rates([part.weight for part in named])
    parts = tuple(
        _open(part, data, split, seed) for part in (named if split == "train" else named[:1])
    )
    source = parts[0] if len(parts) == 1 else _mix(parts, rates, split)
    held_out = tuple(
        HeldOut(name, path, sha256_of_files(of_split(Path(path), name)))
        for name, path in own_held_out(data).items()
    )
    return dataclasses.replace(source, held_out=held_out if split == "train" else ())


def _require_files(data: DataConfig) -> None:
    """UserError for a file of the reader's own that is not there: a run may have been moved away
    from its data."""
    for field in ("path", "dev_path", "test_path"):
        place = getattr(data, field)
        if place and not place.startswith(locations.SHARED) and not Path(place).exists():
            raise UserError(
                f"no data file {place}; name where it is now with --config.data.{field}=PATH"
            )


def _held_out(named: mixes.SourceName, data: DataConfig, path: str, split: str) -> Source:
    """A held-out file, read as the training source's kind is, whole."""
    if named.name in DOCUMENTS:
        return document_source(
            Path(path).name, of_split(Path(path), split), split, data, "unknown", path, ()
        )
    examples = read_whole(Path(path), split, data.columns)
    return file_source(
        Path(path).name, split, examples, examples.table.sha256, licence="unknown", about=path
    )


def _open(named: mixes.SourceName, data: DataConfig, split: str, seed: int) -> Source:
    name = named.name
    if own_code.is_place(f"{name}:{named.folder}"):
        return _own(f"{name}:{named.folder}", data, split, seed)
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"config.data.source={data.source!r} is unknown; {hint}there are: {', '.join(SOURCES)},"
            " and your own as"
            " FILE.py:NAME"
        )
    name = REPLACED.get(name, name) if data.path else name
    return SOURCES[name](path=data.path or named.folder, split=split, data=data, seed=seed)


def _own(place: str, data: DataConfig, split: str, seed: int) -> Source:
    """What a function of one's own returns; examples without a Source around them count as
    synthetic."""
    function, name = (
        own_code.find(data.code, "data.source", place, callable),
        own_code.split(place)[1],
    )
    found = own_code.call(function, path=data.path, split=split, data=data, seed=seed)
    if isinstance(found, Source):
        return found
    examples = isinstance(found, Sequence) and not isinstance(found, str) and len(found) > 0
    if not examples or not isinstance(found[0], Example):
        raise UserError(
            f"data.source={place}, split {split!r}: expected a lfl_jax.data.sources.Source or a"
            " list of Examples, at"
            f" least one; got {f'{len(found)} of ' if hasattr(found, '__len__') else ''}{type(found).__name__}"
        )
    made = generated_sources.generated(
        name, split, found, seed, f"examples that {place} makes, seed {seed}"
    )
    return dataclasses.replace(made, licence="unknown")


def _mix(parts: tuple[Source, ...], rates: tuple[int, ...], split: str) -> Source:
    """Sources one after the other, drawn at these rates."""
    names, shares = (
        tuple(part.name for part in parts),
        [f"{rate / sum(rates):.1%}" for rate in rates],
    )
    hashes = [f"{part.sha256} {share}" for part, share in zip(parts, shares, strict=True)]
    stand_ins = [part.stand_in_for for part in parts if part.stand_in_for]
    return Source(
        name=",".join(f"{name}:{share}" for name, share in zip(names, shares, strict=True)),
        split=split,
        examples=mixes.ConcatenatedExamples(names, tuple(part.examples for part in parts)),
        licence=" and ".join(dict.fromkeys(part.licence for part in parts)),
        sha256=hashlib.sha256(" ".join(hashes).encode()).hexdigest(),
        seed=next((part.seed for part in parts if part.seed is not None), None),
        synthetic=any(part.synthetic for part in parts),
        description="; ".join(
            f"{share} {p.description}" for p, share in zip(parts, shares, strict=True)
        ),
        stand_in_for=", ".join(stand_ins) or None,
        parts=parts,
        rates=rates,
    )


def held_out_splits(data: DataConfig) -> tuple[str, ...]:
    """Splits to test on; of the word problems, templates seen in training and others; of uuid, the
    training pairs."""
    return (
        ("test",)
        if data.path or data.test_path
        else TEST_SPLITS.get(mixes.parse(data.source)[0].name, ("test",))
    )
