"""Score files: exact round trips, and every way a file can be wrong is named without losing what was there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import h5py
import msgspec
import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError, ForeignFileError, ScoreFileError, StoreError
from circuitlab.scores import netcdf
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.fakes import fake_scores


@pytest.fixture
def scores() -> HeadScores:
    generator = np.random.default_rng(0)
    return fake_scores(generator.normal(size=(5, 3, 4)), mlps=generator.normal(size=(5, 3)))


@pytest.fixture
def path(scores, tmp_path):
    return scores.save(tmp_path / "scores.nc")


def test_round_trip_is_exact(scores, path) -> None:
    back = HeadScores.load(path)
    assert back.provenance == scores.provenance
    for name in scores.dataset.data_vars:
        assert back.dataset[name].dims == scores.dataset[name].dims
        assert back.dataset[name].dtype == scores.dataset[name].dtype
        np.testing.assert_array_equal(back.dataset[name].values, scores.dataset[name].values)
    assert back.to_frame().equals(scores.to_frame())


def test_marks_survive(tmp_path, scores) -> None:
    arrays = {"heads": np.ones((5, 2, 3, 4)), "total": np.ones(5), "clean": np.ones(5), "corrupt": np.zeros(5)}
    marked = HeadScores.build(arrays, scores.provenance, ["S1", "END"])
    assert HeadScores.load(marked.save(tmp_path / "m.nc")).marks == ("S1", "END")


def test_a_file_cut_anywhere_is_refused(path, tmp_path) -> None:
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        cut = tmp_path / "cut.nc"
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ScoreFileError, match=r"cut\.nc"):
            HeadScores.load(cut)


def test_changed_values_are_noticed(path, scores, tmp_path) -> None:
    with h5py.File(path, "r+") as file:
        file["heads"][0, 0, 0] += 1e-9
    with pytest.raises(ScoreFileError, match="checksum"):
        HeadScores.load(path)


def test_foreign_files_are_named(tmp_path, scores) -> None:
    text = tmp_path / "text.nc"
    text.write_text("hello")
    with pytest.raises(ForeignFileError, match="not a netCDF 4 file"):
        HeadScores.load(text)
    other = tmp_path / "other.nc"
    scores.dataset.to_netcdf(other, engine="h5netcdf")
    with pytest.raises(ForeignFileError, match="did not write"):
        HeadScores.load(other)
    with pytest.raises(ScoreFileError, match="There is no score file"):
        HeadScores.load(tmp_path / "none.nc")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema", "two"),
        ("schema", None),
        ("provenance", None),
        ("provenance", "{"),
        ("provenance", "[" * 10_000),
        ("checksum", None),
        ("checksum", [1, 2]),
        ("provenance", '{"method": 3}'),
        ("provenance", [1.5, 2.5]),
    ],
)
def test_a_damaged_attribute_is_named(path, name, value) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(ScoreFileError, match="is damaged"):
        HeadScores.load(path)


@pytest.mark.parametrize("value", [None, [1, 2], "circuitlab", 7])
def test_a_format_that_is_none_is_named(path, value) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["format"]
        if value is not None:
            file.attrs["format"] = value
    with pytest.raises(ScoreFileError, match=r"did not write|not HeadScores|is damaged"):
        HeadScores.load(path)


def test_provenance_changed_by_hand_is_noticed(path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = file.attrs["provenance"].replace('"logits"', '"nats"')
        assert "nats" in file.attrs["provenance"]
    with pytest.raises(ScoreFileError, match="provenance do not match their checksum"):
        HeadScores.load(path)


def test_a_newer_schema_is_refused_by_number(path, monkeypatch) -> None:
    monkeypatch.setattr(netcdf, "SCHEMA", 0)
    with pytest.raises(ScoreFileError, match="has schema 1; this version reads schemas up to 0"):
        HeadScores.load(path)


def test_a_full_disk_leaves_the_old_file(path, scores, monkeypatch) -> None:
    before = path.read_bytes()

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        scores.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_is_named(scores, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Could not write"):
        scores.save(tmp_path / "file" / "scores.nc")


def test_a_process_killed_while_writing_leaves_the_old_file(path) -> None:
    before = path.read_bytes()
    code = (
        "import os, sys\n"
        "from circuitlab.scores.head_scores import HeadScores\n"
        "scores = HeadScores.load(sys.argv[1])\n"
        "os.fsync = lambda _: os._exit(9)\n"
        "scores.save(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 9
    assert path.read_bytes() == before
    HeadScores.load(path)


def test_provenance_is_readable_json(path, scores) -> None:
    with h5py.File(path) as file:
        text = file.attrs["provenance"]
    assert msgspec.json.decode(text)["method"] == scores.provenance.method


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5netcdf's, about its own half-open file
def test_changed_bytes_are_refused_or_change_nothing(path, scores) -> None:
    """Any error but ours fails."""
    import random

    whole, choose = path.read_bytes(), random.Random(0)
    outcomes = {"refused": 0, "the same": 0}
    for _ in range(80):
        data = bytearray(whole)
        for _ in range(choose.choice([1, 3, 20])):
            data[choose.randrange(len(data))] = choose.randrange(256)
        path.write_bytes(bytes(data))
        try:
            read = HeadScores.load(path)
        except (ScoreFileError, ForeignFileError):
            outcomes["refused"] += 1
        else:
            assert read.provenance == scores.provenance
            np.testing.assert_array_equal(read.values("heads"), scores.values("heads"))
            outcomes["the same"] += 1
    assert min(outcomes.values()) > 5, outcomes


def test_a_small_file_that_claims_to_be_huge_is_not_read(path) -> None:
    with h5py.File(path, "r+") as file:
        shape = file["heads"].shape
        del file["heads"]
        file.create_dataset("heads", shape=(10**6, 10**4, *shape[2:]), dtype="f4", chunks=True)
    with pytest.raises(ScoreFileError, match="is damaged"):
        HeadScores.load(path)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["heads", "total"])
def test_numbers_that_are_none_are_named_and_neither_written_nor_read(path, scores, monkeypatch, name, number) -> None:
    dataset = scores.dataset.copy(deep=True)
    dataset[name].values.flat[0] = number
    broken, before = HeadScores(dataset, scores.provenance), path.read_bytes()
    with pytest.raises(BadParameterError, match=f"'{name}' of 'activation_patching' holds values that are not finite"):
        broken.save(path)
    assert path.read_bytes() == before
    with monkeypatch.context() as patch:  # a file of another writer
        patch.setattr(netcdf, "_not_finite", lambda _dataset: "")
        broken.save(path)
    with pytest.raises(ScoreFileError, match=f"is damaged .*'{name}' holds values that are not finite"):
        HeadScores.load(path)
