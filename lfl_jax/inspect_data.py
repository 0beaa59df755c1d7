"""Show the training data of a config: packed rows, the tokens with loss, and how full rows are.

    python -m lfl_jax.inspect_data --config=configs/math_ift.py [--rows=2] [--decontaminate]

On a terminal, tokens that carry loss are green, the others grey, and every other segment is
underlined; elsewhere tokens that carry loss are between « and ». Special tokens such as EOS show
their own text. --decontaminate searches the training source for the items of config.eval.tasks
(all of them) instead.
"""

from collections.abc import Sequence

from rich.console import Console

from lfl_jax.config import command_line
from lfl_jax.errors import UserError, entry


def main(argv: Sequence[str]) -> None:
    """The command above."""
    extra = {
        "rows": (2, "packed rows to print"),
        "decontaminate": (False, "look for evaluation items in the training source"),
        **command_line.CODE,
    }
    config, options = command_line.parse(argv, __doc__, extra)
    if options["rows"] < 0:
        raise UserError(f"--rows={options['rows']} must be 0 or more")
    # After --help and mistakes in the command: these take seconds to import.
    from lfl_jax.report import training_data
    from lfl_jax.run_setup import base_model

    if options["decontaminate"]:
        from lfl_jax.analysis import contamination
        from lfl_jax.data.sources import open_source
        from lfl_jax.evals import suite

        source = open_source(config.data, "train", config.seed.data)
        training_data.render_contamination(
            contamination.find_overlaps(config, source, suite.tasks_of(config, training=False)),
            Console(),
        )
        return
    base_model.check(config)
    positions = base_model.shape(config).max_seq_len
    tokenizer = base_model.tokenizer(config)
    training_data.inspect(config, tokenizer, options["rows"], Console(), positions)


if __name__ == "__main__":
    entry(main)
