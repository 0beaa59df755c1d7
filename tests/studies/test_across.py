"""One contrast over studies of several sizes: read from their reports, beside their parameters."""

import pytest
from lfl_jax.configs import lab

from lfl_jax.config import Config
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.io import workdir
from lfl_jax.studies import across

HEAD = "first,second,equal,first forgets,effect,95 % low,95 % high,reason"
PARAMETERS = {"0.3m": 296_256, "1m": 911_744, "3m": 2_965_824}


def study(folder, size, effect, row=None):
    """A study of a size whose report has one contrast."""
    config = Config.from_dict(lab.get_config(size))
    run = folder / "runs" / "lora-0.001-80-s0"
    workdir.prepare(run, config.to_json(), config.hash())
    files.write_text(run / "results.json", "{}")
    row = row or f"lora,full,learning,more,{effect},{effect - 0.02},{effect + 0.02},"
    files.write_text(folder / "report/tables/verdicts.csv", f"{HEAD}\n{row}\n")
    return str(folder)


def test_a_contrast_by_size_and_its_trend(tmp_path, capsys):
    effects = {"3m": 0.02, "0.3m": 0.10, "1m": 0.06}
    folders = [study(tmp_path / size, size, effect) for size, effect in effects.items()]
    across.main(["across", *folders, f"--out={tmp_path}/out"])
    shown = capsys.readouterr().out
    rows = (tmp_path / "out/across.csv").read_text().splitlines()[1:]
    # Smallest first, whatever the order of the arguments.
    assert [row.split(",")[0] for row in rows] == list(PARAMETERS)
    assert [int(row.split(",")[1]) for row in rows] == list(PARAMETERS.values())
    assert "with each doubling -0.02" in shown
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {
        *(".csv", ".svg", ".png", ".pdf")
    }


def test_two_studies_have_no_trend(tmp_path, capsys):
    folders = [study(tmp_path / size, size, 0.1) for size in ("1m", "3m")]
    across.main(["across", *folders])
    assert "doubling" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "flags", "why"),
    [
        (None, ["--contrast=full,lora"], "no such contrast at equal learning; there are: lora,ful"),
        (None, ["--equal=divergence"], "no such contrast at equal divergence; there are: none"),
        ("lora,full,learning,not answered,,,,no overlap", [], "has no interval: no overlap"),
    ],
)
def test_studies_that_do_not_decide(tmp_path, row, flags, why):
    folders = [study(tmp_path / size, size, 0.1, row) for size in ("1m", "3m")]
    with pytest.raises(UserError, match=why):
        across.main(["across", *folders, *flags])


def test_directories_without_a_report(tmp_path):
    with pytest.raises(UserError, match=r"has no report: report/tables/verdicts.csv is missing"):
        across.main(["across", str(tmp_path), str(tmp_path)])
    with pytest.raises(UserError, match="directories of two studies or more"):
        across.main(["across", str(tmp_path)])
