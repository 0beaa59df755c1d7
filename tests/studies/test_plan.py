"""What a study takes and finds, before it runs."""

import pytest
from lfl_jax.configs.studies import smoke

from lfl_jax.errors import UserError
from lfl_jax.statistics.calibration import assumed
from lfl_jax.studies import grid, plan
from lfl_jax.studies.execute import Study
from lfl_jax.train import Outcome


def test_more_seeds_and_items_find_less():
    few, many = assumed(seeds=3, items=64), assumed(seeds=8, items=512)
    assert 0 < plan.detectable(many, 20) < plan.detectable(few, 20) < 0.5


def test_a_study_that_cannot_compare_says_so():
    study = grid.read(smoke.get_config().to_dict())
    assert "2 learning rates an arm" in plan._power(study, 8)
    one = grid.read(smoke.get_config().to_dict() | {"seeds": (0,)})
    assert plan._power(one, 8).startswith("1 seed: no error")


def test_an_interrupted_probe_says_so_and_leaves_nothing(tmp_path):
    study = Study(tmp_path, grid.expand(grid.read(smoke.get_config().to_dict())))

    def stopped(request):
        (request.workdir).mkdir()
        assert request.config.train.steps == 4
        return Outcome({}, {}, {}, 1, 4, 1, finished=False)

    with pytest.raises(UserError, match="the probe was interrupted"):
        plan.probe(study, "source_nll", stopped)
    assert not list(tmp_path.iterdir())
    assert plan.Probe(0.5, 10.0, 8, 1).seconds(100) == 60.0
