"""Say what training did to the weights: norms, ranks, spectra and directions, beside their nulls.

    python -m lfl_jax.analyze --run=runs/quickstart
    python -m lfl_jax.analyze --adapter=PEFT_DIR --base=DIR --out=analysis/mine
    python -m lfl_jax.analyze --tuned=HF_DIR --base=HF_DIR
    python -m lfl_jax.analyze lfl:metamath-lora-rank-16-alpha-32 --without_base

Nothing is trained, and no model is evaluated unless --text asks for it. It prints one table, and
writes index.html with figures, tables/ and weights.parquet.

--run=DIR             a run, at --step=latest | best | a number; or --steps=all, or 100,200,400: its
                      checkpoints one after another; where its base was moved, with
                      --config.model.path=PATH
--second              of a run over a frozen first adapter (config.adapter.over): the second alone
--adapter=A,B --base=DIR
                      adapters over a base (a Hugging Face folder, a .gguf file, a fetched name or
                      hf:ORG/NAME): PEFT folders, .safetensors files, runs, names
--tuned=A,B --base=DIR
                      models that were tuned from it whole
lfl:NAME@BRANCH ...   checkpoints published with the paper, fetched where they are not cached
                      (CC-BY-NC-4.0); branches are shorter trainings; the base is llama2-7b (gated)
--without_base        of low-rank adapters: only what needs no weights of the base, which is not
                      read; --base may be a name such as llama2-7b
--compare=DIR         another run, adapter or model over the same base (another rank, another seed):
                      which directions do the two changes share?
--original=DIR        of a quantised base: the weights before quantisation, to measure against those
                      as well
--modules=REGEX       only these weights: "q", "q|v", "mlp/.*", "layers/3/attn/q"
--directions=K        first directions that subspaces are compared by (default: 16, or fewer where
                      a change has fewer)
--control=DIR         a run that should have learned nothing, such as one with shuffled responses,
                      over the same base: a checkpoint to read the others beside
--base_svd=yes | no   whether W is decomposed as well, for intruders, common directions and
                      amplification; by default where its smaller side is at most 2048: above that
                      a weight takes minutes
--text=FILE           which tokens of this text lost likelihood (.txt, .jsonl with "text", a fetched
                      name); or --text=run: the text that the run's source_nll is of. The first
                      --texts=64 documents are scored by both models
--out=DIR             where the page goes; default: the run's folder analysis, else analysis/NAME
--json                print every number as JSON, in place of the table
--allow_code=FILE.py  a file with a kind of yours that the run or adapter names, and that may run
                      (may be repeated)
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from lfl_jax.core import one_process
from lfl_jax.errors import UserError, entry


def main(argv: Sequence[str]) -> None:
    """The command above."""
    one_process.require_one("lfl_jax.analyze", argv[1:])
    options = _parser().parse_args(list(argv)[1:])
    _require_usable(options)
    # After --help and mistakes in the flags: these take seconds to import.
    from lfl_jax import analyze_subjects
    from lfl_jax.report import html
    from lfl_jax.report.analysis import analyse, page, terminal
    from lfl_jax.report.analysis.settings import Settings

    # Before gigabytes are read.
    html.require_extra()
    texts = analyze_subjects.texts(options)
    decomposes_base = {"auto": None, "yes": True, "no": False}[options.base_svd]
    settings = Settings(
        options.modules, options.directions, not options.without_base, decomposes_base
    )
    subject = analyze_subjects.open_subject(options)
    analysis = analyse.analyse(subject, settings, texts)
    folder = analyze_subjects.folder(options)
    command = shlex.join(("python", "-m", "lfl_jax.analyze", *list(argv)[1:]))
    written = page.write(analysis, command, folder)
    if options.json:
        print(terminal.as_json(analysis))
    else:
        terminal.show(analysis)
    # Standard output is for the numbers alone, where a program reads it.
    print(f"written to {written}", file=sys.stderr if options.json else sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lfl_jax.analyze",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,  # the description is a whole page: a list of flags repeats it
    )
    hidden = {"help": argparse.SUPPRESS}
    parser.add_argument("published", nargs="*", **hidden)
    for name in ("run", "steps", "adapter", "tuned", "base", "compare", "control", "original"):
        parser.add_argument(f"--{name}", default="", **hidden)
    for name in ("modules", "text", "out"):
        parser.add_argument(f"--{name}", default="", **hidden)
    parser.add_argument("--config.model.path", dest="model_path", default="", **hidden)
    parser.add_argument("--step", default="latest", **hidden)
    for name in ("second", "without_base", "json"):
        parser.add_argument(f"--{name}", action="store_true", **hidden)
    parser.add_argument("--allow_code", action="append", default=[], **hidden)
    parser.add_argument("--directions", type=int, default=None, **hidden)
    parser.add_argument("--texts", type=int, default=64, **hidden)
    parser.add_argument("--base_svd", default="auto", choices=("auto", "yes", "no"), **hidden)
    return parser


def _require_usable(options: argparse.Namespace) -> None:
    """UserError for flags that do not go together."""
    given = [name for name in ("run", "adapter", "tuned", "published") if getattr(options, name)]
    if len(given) != 1:
        raise UserError(
            "give one of --run=DIR, --adapter=PATH with --base=PATH, --tuned=PATH with"
            " --base=PATH, or published checkpoints lfl:NAME@BRANCH (see --help)"
        )
    if options.steps and options.step != "latest":
        raise UserError("give either --step or --steps")
    for flag in ("steps", "second", "model_path", "original"):
        if getattr(options, flag) and not options.run:
            name = "config.model.path" if flag == "model_path" else flag
            raise UserError(f"--{name} is of a run; also give --run=DIR")
    if options.base and options.run:
        raise UserError("a run knows its base; where it was moved, give --config.model.path=PATH")
    if options.without_base and (options.run or options.tuned):
        raise UserError("--without_base is of low-rank adapters; a run and a model need their base")
    if options.text and options.without_base:
        raise UserError("--text evaluates the model, which --without_base does not have")
    if options.text == "run" and not options.run:
        raise UserError("--text=run is the text of a run; give --text=FILE")


if __name__ == "__main__":
    entry(main)
