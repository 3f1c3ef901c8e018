"""The laws at loading name the sites that break them, and cost few runs of a model that obeys them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from circuitlab.model import load_model
from circuitlab.model.anatomy import tested
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import tiny_hf

STREAM = [Site.RESID_PRE, Site.ATTN_OUT, Site.RESID_MID, Site.MLP_OUT, Site.RESID_POST]


def written_back(breaks) -> tuple[dict[Site, str], int]:
    """Faults of a model of two layers whose logits change where ``breaks`` says so of the sites that are written; and its runs."""
    runs = []

    def logits(tokens, at, sites, tap):
        runs.append({site for site, _ in sites})
        assert {layer for _, layer in sites} == {0, 1}
        return torch.ones(2, 5) + float(breaks(runs[-1]))

    run = SimpleNamespace(parts=SimpleNamespace(layers=[None, None]), logits=logits)
    return tested._unlike_written_back(run, torch.zeros(2, 9, dtype=torch.long), STREAM, torch.ones(2, 5)), len(runs)


def test_one_run_serves_all_sites_of_a_model_that_obeys() -> None:
    assert written_back(lambda sites: False) == ({}, 1)


@pytest.mark.parametrize("broken", STREAM)
def test_the_site_that_cannot_be_written_back_is_named(broken) -> None:
    faults, _ = written_back(lambda sites: broken in sites)
    assert list(faults) == [broken] and "writing its own value back" in faults[broken]


def test_sites_that_fail_together_only_are_all_named() -> None:
    faults, _ = written_back(lambda sites: len(sites) > 1)
    assert list(faults) == STREAM and "with the other sites" in faults[STREAM[0]]


def test_a_model_is_run_few_times_when_it_is_loaded() -> None:
    hf, rows = tiny_hf("llama"), []
    hf.register_forward_pre_hook(lambda module, args, named: rows.append(None), with_kwargs=True)
    load_model(hf)
    assert 0 < len(rows) <= 11
