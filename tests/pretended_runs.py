"""Runs that do nothing, for tests of what does runs: each leaves what a study reads of one."""

import json

from lfl_jax.core import files


def finish(config, folder):
    """What a finished run leaves, as far as the study reads it."""
    files.write_json(folder / "config.json", {"hash": config.hash(), "config": config.values()})
    e, last = config.eval, f"dev-{config.train.steps:06d}"
    evaluated = {"before": e.tasks, "after": e.tasks, last: e.every_tasks}
    for when, tasks in evaluated.items():
        for task in e.items(tasks):
            write_records(folder / "evals" / when / f"{task}.jsonl")
    files.write_json(folder / "results.json", {})


def write_records(path):
    """One record of any task that scores texts."""
    record = {"id": "a", "cluster": "a", "nll": 1.0, "tokens": 1, "bytes": 1, "words": 1}
    record |= {"forward_kl": 0.0, "reverse_kl": 0.0}
    lines = [{"settings": {"items": 1}}, record]
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


class Fake:
    """A training that does what it is told for some runs, and finishes the others."""

    def __init__(self, **faults):
        self.faults, self.done = faults, []

    def __call__(self, config, folder, base_records, shared):
        self.done.append(folder.name)
        fault = self.faults.get(folder.name.replace("-", "_").replace(".", "_"))
        if isinstance(fault, Exception):
            raise fault
        if fault == "interrupted":
            return False
        finish(config, folder)
        return True
