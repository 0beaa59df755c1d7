"""A study of one seed has no interval anywhere: its report says so, and prints no NaN."""

import base64
import re

import pytest
from planted_study import write_study

from lfl_jax import compare
from lfl_jax.report.study.figures.style import Figure

NAN = re.compile(r"(?<![\w/+])nan(?![\w/+])", re.IGNORECASE)
DATA = re.compile(r"data:text/csv;base64,([\w+/=]+)")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
    folder = write_study(tmp_path_factory.mktemp("one") / "s", seeds=1, divergence=True)
    words = [str(folder / "base.csv"), f"--runs={folder / 'runs.csv'}", "--learning=target/score"]
    words += ["--forgetting=source/score", "--divergence=kl/score", f"--report={folder / 'report'}"]
    with pytest.MonkeyPatch.context() as patch:
        # Other forms of the same drawings hold no text that could be read here.
        patch.setattr(Figure, "write", write_svg)
        compare.main(["", *words])
    return folder / "report"


def write_svg(figure, folder, svg):
    (folder / f"{figure.name}.svg").write_text(svg)


def test_no_number_is_printed_that_is_none(report):
    page = (report / "index.html").read_text()
    encoded = DATA.findall(page)
    texts = {"index.html": DATA.sub("", page)}
    texts |= {f"data {i}": base64.b64decode(data).decode() for i, data in enumerate(encoded)}
    written = [*report.glob("tables/*.csv"), *report.glob("tables/*.tex"), *report.rglob("*.svg")]
    texts |= {file.name: file.read_text() for file in written}
    assert len(encoded) >= 5 and {"verdicts.csv", "verdicts.tex", "frontier.svg"} <= texts.keys()
    found = {name: NAN.search(text) for name, text in texts.items() if NAN.search(text)}
    assert not found


def test_it_says_why(report, capsys):
    page = (report / "index.html").read_text()
    assert "One seed: no interval and no verdict" in page
    assert "Difference in forgetting" in page and ", one seed: no interval; margin" in page
    assert "with 80 % probability" not in page and "1 seed. Learned" in page
    verdicts = (report / "tables/verdicts.csv").read_text()
    assert "1 seed: no error can be estimated; at least 2 are needed" in verdicts
