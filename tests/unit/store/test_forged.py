"""Score files whose arrays are none, under a checksum that fits, as another program may write them: named, set aside, and made again."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import xarray as xr

from circuitlab.core.errors import ScoreFileError
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.netcdf import write_dataset
from circuitlab.store import HEAD_SCORES, Cache
from circuitlab.testing.fakes import fake_scores

SHAPES = {
    "no values": lambda arrays: {name: arrays[name] for name in ("total", "clean", "corrupt")},
    "one layer less": lambda arrays: arrays | {"heads": arrays["heads"][:, 1:]},
    "no total": lambda arrays: {name: value for name, value in arrays.items() if name != "total"},
    "an unknown part": lambda arrays: arrays | {"tails": arrays["heads"]},
    "text": lambda arrays: arrays | {"heads": np.full(arrays["heads"].shape, "x")},
    "other axes": lambda arrays: arrays | {"heads": arrays["heads"][0, 0]},
}


@pytest.mark.parametrize("change", SHAPES)
def test_arrays_that_are_no_scores_are_named_and_made_again(tmp_path, change) -> None:
    scores, store = fake_scores(np.random.default_rng(0).normal(size=(4, 2, 3))), Cache(tmp_path)
    run_id = scores.provenance.run_id()
    arrays = SHAPES[change]({str(name): values.values for name, values in scores.dataset.data_vars.items()})
    variables = {name: ([f"{name}{axis}" for axis in range(value.ndim)], value) for name, value in arrays.items()}
    write_dataset(store.path(run_id), xr.Dataset(variables), scores.provenance, "circuitlab HeadScores")
    with pytest.raises(ScoreFileError, match="holds no such scores"):
        HeadScores.load(store.path(run_id))
    with pytest.warns(UserWarning, match=r"moved to .*damaged"):
        again, cached = store.get_or_compute(run_id, HEAD_SCORES, lambda: scores)
    assert not cached and again.n_pairs == 4


def test_scores_of_edges_of_a_model_of_millions_are_refused_at_once(tmp_path) -> None:
    about = fake_scores(np.ones((2, 2, 3))).provenance
    huge = msgspec.structs.replace(about, model=msgspec.structs.replace(about.model, n_layers=10**7, n_heads=10**6))
    axes = xr.Dataset({"total": ("pair", np.ones(2))}, coords={"sender": ["embed"], "receiver": ["logits"]})
    write_dataset(tmp_path / "x.nc", axes, huge, "circuitlab EdgeScores")
    with pytest.raises(ScoreFileError, match="senders and receivers are not those"):
        EdgeScores.load(tmp_path / "x.nc")
