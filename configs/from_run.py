"""The config of a finished or interrupted run, to evaluate or go on with:
configs/from_run.py:runs/quickstart.

    python -m lfl_jax.evaluate --config=configs/from_run.py:runs/quickstart --config.eval.limit=0

The argument is the run's directory, whose config.json is read; every field can be overridden as
usual.
"""

import json
import pathlib

from lfl_jax.configs import base
from ml_collections import config_dict


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config of the run in this directory; raises ValueError when there is none."""
    file = pathlib.Path(argument).expanduser() / "config.json"
    if not argument or not file.is_file():
        raise ValueError(
            f"{argument or 'nothing'}: not the directory of a run; give it as from_run.py:DIR"
        )
    c, record = base.base(), json.loads(file.read_text("utf-8"))
    for name, value in record["config"].items():
        fields = value.items() if isinstance(value, dict) else [(name, value)]
        section = c[name] if isinstance(value, dict) else c
        for field, x in fields:
            if x is not None:  # null is what such a field begins with
                section[field] = _tuples(x)
    # What the record says of files with code. That it is here at all marks the config as a
    # record's: its files run only where somebody allows them.
    c.recorded_code = tuple((file, str(sha256)) for file, sha256 in record.get("code", {}).items())
    return c


def _tuples(value):
    """JSON's lists as the tuples they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
