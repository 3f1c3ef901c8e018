"""What every experiment has, how it is run, kept and gone on with, and what a study makes of it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import circuitlab.experiments
from circuitlab.citations import CITATIONS
from circuitlab.core.errors import BadParameterError, StoreError, UnknownNameError
from circuitlab.core.nodes import Head
from circuitlab.experiments import Claim, Experiment, ExperimentContext, Gate, experiment_classes, get_experiment
from circuitlab.experiments.catalogue import RESULTS, catalogue, shipped_records
from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.run import check_gate, read_record, run_experiment
from circuitlab.experiments.types import STEPS, judged
from circuitlab.model.toy import build_planted
from circuitlab.store import Cache

FOLDER = Path(circuitlab.experiments.__file__).parent
CLASSES = experiment_classes()
FIGURES = Path(__file__).parents[3] / "figures" / "experiments"


class Counting(Experiment, frozen=True, forbid_unknown_fields=True):
    """Counts how often its step is computed."""

    name: ClassVar[str] = "counting"
    title: ClassVar[str] = "Counting"
    question: ClassVar[str] = "How often?"
    cite: ClassVar[tuple[str, ...]] = ("yu2023",)
    cost: ClassVar[str] = "nothing"
    published: ClassVar[tuple[Claim, ...]] = (Claim(claim="One.", published="1", rule="Always."),)
    computed: ClassVar[list[str]] = []

    met: bool = True
    fails: bool = False

    def gate(self, context: ExperimentContext) -> Gate:
        return Gate(met=self.met, reason="It was told so.", measured={"heads": context.model.spec.n_heads})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        first = context.stored("first", lambda: self._value(context))
        if self.fails:
            raise KeyboardInterrupt
        return {**first, "missing": float("nan")}

    def _value(self, context: ExperimentContext) -> dict[str, float]:
        self.computed.append("first")
        return {"value": float(context.rng("value").random())}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        assert results["missing"] is None  # judged from the data as they are stored
        return (judged(self.published[0], f"{results['value']:.3f}", holds=True),)

    def draw(self, results: Mapping[str, Any], subtitle: str) -> list[Any]:
        del results, subtitle
        return []


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    Counting.computed.clear()


def test_a_record_is_read_from_the_store_and_equals_what_was_computed(tmp_path: Path) -> None:
    model, store = build_planted("copy-gqa").model, Cache(tmp_path)
    first, second = (run_experiment(model, Counting(), store=store) for _ in range(2))
    assert (first.results, first.claims, first.gate) == (second.results, second.claims, second.gate)
    assert Counting.computed == ["first"]
    assert first.claims[0].verdict == "replicates"


def test_an_interrupted_experiment_goes_on_after_its_last_step(tmp_path: Path) -> None:
    model, store = build_planted("copy-gqa").model, Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(model, Counting(fails=True), store=store)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(model, Counting(fails=True), store=store)
    assert Counting.computed == ["first"]


def test_a_step_of_another_form_is_named_and_stays(tmp_path: Path) -> None:
    model, store = build_planted("copy-gqa").model, Cache(tmp_path)
    step = {**ExperimentContext(Counting(), model, 0, store).identity(), "step": "first", "about": None}
    store.put(step, STEPS, {"other": 1.0})
    with pytest.raises(StoreError, match=r"failed on data of finished steps .*KeyError: 'value'") as said:
        run_experiment(model, Counting(), store=store)
    path = store.path(step, STEPS)
    assert str(path) in str(said.value) and path.exists() and Counting.computed == []
    path.unlink()
    assert run_experiment(model, Counting(), store=store).claims[0].verdict == "replicates"


def test_a_fault_of_an_experiment_itself_is_raised_as_it_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Counting, "_value", lambda self, context: {"other": 1.0})
    with pytest.raises(KeyError, match="value") as said:
        run_experiment(build_planted("copy-gqa").model, Counting(), store=Cache(tmp_path))
    assert not isinstance(said.value, StoreError)


def test_seed_settings_and_model_are_part_of_the_identity(tmp_path: Path) -> None:
    model, other = (build_planted(name).model for name in ("copy-gqa", "copy-mha"))
    store = Cache(tmp_path)
    runs = [run_experiment(model, Counting(), store=store), run_experiment(model, Counting(), seed=1, store=store)]
    runs += [run_experiment(other, Counting(), store=store)]
    assert len(Counting.computed) == 3
    assert runs[0].results["value"] != runs[1].results["value"]


def test_where_the_gate_is_not_met_nothing_is_measured_and_no_claim_is_judged(tmp_path: Path) -> None:
    record = run_experiment(build_planted("copy-gqa").model, Counting(met=False), store=Cache(tmp_path))
    assert Counting.computed == []
    assert [claim.verdict for claim in record.claims] == ["cannot be asked"]
    assert record.drawings() == []
    assert "NOT MET" in repr(record)
    assert not check_gate(build_planted("copy-gqa").model, Counting(met=False), store=Cache(tmp_path)).met


def test_a_record_is_written_and_read_back(tmp_path: Path) -> None:
    record = run_experiment(build_planted("copy-gqa").model, Counting(), store=Cache(tmp_path))
    record.save(tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == record
    (tmp_path / "record.json").write_text("{")
    for path in ("record.json", "no.json"):
        with pytest.raises(BadParameterError, match=path.replace(".", r"\.")):
            read_record(tmp_path / path)


def test_names_and_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="memory_context"):
        get_experiment("memory_contxt")
    with pytest.raises(UnknownNameError, match="prompts"):
        get_experiment("memory_context", {"prompt": 3})
    with pytest.raises(BadParameterError, match="prompts"):
        get_experiment("memory_context", {"prompts": "many"})


@pytest.mark.parametrize("name", CLASSES)
def test_every_experiment_says_what_it_is(name: str) -> None:
    cls = CLASSES[name]
    assert cls.title and cls.question.endswith("?") and cls.cost and cls.published
    assert set(cls.cite) <= set(CITATIONS)
    assert all(claim.rule and claim.published and claim.verdict == "cannot be asked" and not claim.here for claim in cls.published)
    assert cls().identity()["experiment"] == name


@pytest.mark.parametrize("name", CLASSES)
def test_every_experiment_has_a_study_file(name: str) -> None:
    from circuitlab.studies.load import load_study

    study = load_study(FIGURES / f"{name}.toml")
    assert [cell.key for cell in study.analysis_cells()] == [name]


def test_no_experiment_has_a_forward_pass_of_its_own() -> None:
    """Nothing in an experiment imports the decoder, the engine or transformers: it uses models, methods and interventions."""
    forbidden = (
        "circuitlab.model.decoder",
        "circuitlab.model.engine",
        "circuitlab.model.transformer_lens",
        "transformers",
        "transformer_lens",
    )
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(forbidden)], path


def test_listing_experiments_does_not_load_torch() -> None:
    code = "import sys, circuitlab.experiments as e; e.experiment_classes(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shipped_records_are_of_this_version_and_judged_as_they_say() -> None:
    files = sorted(path.name for path in RESULTS.glob("*.json") if not path.name.startswith("gates."))
    current = [record for name in CLASSES for record in shipped_records(name)]
    assert len(current) == len(files), "a record is of an older version of its experiment: run it again"
    for record in current:
        experiment = record.as_experiment()
        assert record.settings == json.loads(json.dumps(type(experiment)().identity()["settings"]))
        assert record.claims == (experiment.judge(record.results) if record.gate.met else experiment.published)
        pictures = [picture.name for picture in record.drawings()]
        assert len({*pictures}) == len(pictures)
        assert not record.gate.met or pictures


def test_the_catalogue_has_gates_of_this_version_only() -> None:
    for entry in catalogue():
        assert set(entry) == {"name", "title", "question", "cite", "cost", "version", "gates"}
        assert all(set(gate) == {"met", "reason"} and gate["reason"] for gate in entry["gates"].values())


def test_random_heads_come_from_the_same_layers_and_leave_out_those_chosen() -> None:
    import numpy as np

    chosen, without = [Head(0, 0), Head(2, 1)], [Head(2, 2)]
    for drawn in random_heads(chosen, (3, 4), 50, np.random.default_rng(0), without=without):
        assert sorted(head.layer for head in drawn) == [0, 2]
        assert not {*drawn} & {*chosen, *without}
    for drawn in random_heads([Head(2, i) for i in range(3)], (4, 4), 50, np.random.default_rng(0)):
        assert sorted(head.layer for head in drawn) == [1, 1, 2], "what a layer lacks comes from the nearest one"
    with pytest.raises(BadParameterError, match="too few"):
        random_heads([Head(0, i) for i in range(3)], (1, 4), 1, np.random.default_rng(0))
