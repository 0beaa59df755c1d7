"""Train the lab's base: once, by the same loop as every run, into the cache.

lab_base.path(config)   # of a run of configs/lab.py: the base's folder, trained first if need be
"""

import dataclasses
import shutil
from pathlib import Path

import jax

from lfl_jax import train
from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals import suite
from lfl_jax.io import hf
from lfl_jax.run_setup import earlier_run, lab_folder
from lfl_jax.text.tokenizer import Tokenizer

RECORD = "pretraining.json"  # in the base's folder: its config and its scores


def prepare(config: Config, quiet: bool = False) -> None:
    """Train the base of a run if it needs one that is not there."""
    if lab_folder.is_needed(config):
        path(config, quiet)


def path(config: Config, quiet: bool = False) -> Path:
    """The Hugging Face folder of a run's base, which is trained first where it is not there."""
    return trained(lab_folder.pretraining(config), quiet)


def trained(training: Config, quiet: bool = False) -> Path:
    """The base that this config trains, in float32.

    Of several processes that ask at once one trains, and the others wait. A training that was
    interrupted resumes. UserError for the processes of one distributed run, KeyboardInterrupt where
    it is asked to stop.
    """
    folder = lab_folder.place(training)
    if folder.exists():
        return folder
    if jax.process_count() > 1:
        raise UserError(f"{folder} is not there yet: train the lab's base on one process first")

    with files.exclusive(folder):
        if not folder.exists():  # another process may have trained it while this one waited
            _train(training, folder, quiet)
    return folder


def _train(training: Config, folder: Path, quiet: bool) -> None:
    """Train beside the folder, write the model beside it, and move that to its place at once."""
    workdir, partial = Path(f"{folder}.run"), Path(f"{folder}.partial")
    # The record has the scores: a log of its own is of no use in a folder that is removed.
    unlogged = dataclasses.replace(training.log, tensorboard=False)
    outcome = train.run(train.Run(dataclasses.replace(training, log=unlogged), workdir, (), quiet))
    if not outcome.finished:
        # Nothing of the command has begun: it ends as one that is stopped while it loads.
        raise KeyboardInterrupt

    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    base, model, _ = earlier_run.restore(workdir)
    hf.save(partial, model.params, base.cfg, dtype="float32", extra=_special_ids(base.tokenizer))
    for name, content in base.tokenizer.files().items():
        (partial / name).write_bytes(content)
    record = {"config": training.values(), "scores": suite.flat(outcome.after)}
    files.write_json(partial / RECORD, record)
    partial.replace(folder)
    shutil.rmtree(workdir, ignore_errors=True)


def _special_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
