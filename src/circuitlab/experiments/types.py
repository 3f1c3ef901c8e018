"""What an experiment is: its gate, its claims, what it can use while it runs, and the record it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np

from circuitlab.core.progress import progress_part
from circuitlab.core.provenance import digest
from circuitlab.store import Cache, Documents

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuitlab.model.protocol import Model
    from circuitlab.scores.intervals import Interval

__all__ = ["STEPS", "VERDICTS", "Claim", "Experiment", "ExperimentContext", "Gate", "Picture", "Verdict", "interval_words", "judged"]

Verdict = Literal["replicates", "in part", "does not replicate", "cannot be asked"]

VERDICTS: tuple[Verdict, ...] = ("replicates", "in part", "does not replicate", "cannot be asked")

STEPS = Documents("experiment_steps")
"""Finished steps of experiments; an interrupted experiment goes on after the last one."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an experiment can ask its question of a model.

    Parameters
    ----------
    met : bool
        Whether it can. Where it is not met, nothing else is run, and every claim says that it cannot be asked.
    reason : str
        One sentence with the numbers.
    measured : dict
        The numbers.
    """

    met: bool
    reason: str
    measured: dict[str, Any] = {}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was published, and what this model shows of it.

    Parameters
    ----------
    claim : str
        What was published, in one sentence.
    published : str
        The published number, with the model it is of.
    here : str
        What was measured here, with an interval; empty where it could not be asked.
    verdict : {"replicates", "in part", "does not replicate", "cannot be asked"}
        By ``rule``.
    rule : str
        When the claim counts as replicated; written before any model was measured.
    """

    claim: str
    published: str
    rule: str
    here: str = ""
    verdict: Verdict = "cannot be asked"


class Picture(NamedTuple):
    """A figure of an experiment: a short name for its file, the figure, and a sentence on how to read it."""

    name: str
    figure: go.Figure
    caption: str


def judged(claim: Claim, here: str, *, holds: bool, partly: bool = False) -> Claim:
    """The claim with what was measured and its verdict: ``holds`` before ``partly`` before neither."""
    verdict: Verdict = "replicates" if holds else "in part" if partly else "does not replicate"
    return msgspec.structs.replace(claim, here=here, verdict=verdict)


@dataclass(frozen=True)
class ExperimentContext:
    """What an experiment can use while it runs.

    Parameters
    ----------
    experiment : Experiment
        The experiment with its settings.
    model : Model
        The model that is asked.
    seed : int
        Seed of prompts, random heads and training.
    store : Cache
        Where finished steps, and scores, are kept.
    """

    experiment: Experiment
    model: Model
    seed: int
    store: Cache
    _reused: list[Path] = field(default_factory=list, repr=False, compare=False)

    @property
    def reused(self) -> tuple[Path, ...]:
        """Files of the steps that were not computed but read from the store so far."""
        return tuple(self._reused)

    def stored(
        self,
        name: str,
        compute: Callable[[], Mapping[str, Any]],
        *,
        about: Any = None,
        read: Callable[[dict[str, Any]], object] | None = None,
    ) -> dict[str, Any]:
        """The plain data of one step, from the store if this step was finished before.

        Parameters
        ----------
        name : str
            Name of the step.
        compute : callable
            Makes the data: dictionaries, lists, text and numbers. It must depend on nothing but the model, the settings, the seed and
            ``about``.
        about : plain data, optional
            What else the step depends on, for example the heads that an earlier step chose.
        read : callable, optional
            Reads the data as they are used; stored data that it cannot read are set aside and made again.

        Returns
        -------
        dict
            As it is stored: tuples are lists, and NaN is None.
        """
        identity = {**self.identity(), "step": name, "about": about}
        codec = STEPS if read is None else STEPS.checked(lambda document: read(document.result))
        document, stored = self.store.get_or_compute(identity, codec, compute)
        if stored:
            self._reused.append(self.store.path(identity, codec))
        return document.result

    def identity(self) -> dict[str, Any]:
        """What the whole experiment depends on: its name, version and settings, the model and the seed."""
        return {**self.experiment.identity(), "model": self.model.spec.identity(), "seed": self.seed}

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """A generator of random numbers for one purpose; the same purpose always gives the same numbers."""
        return np.random.default_rng([self.seed, int(digest(list(purpose))[:8], 16)])

    @contextmanager
    def share(self, start: float, end: float) -> Iterator[None]:
        """Let the steps inside the ``with`` block fill the progress bar from ``start`` to ``end``."""
        with progress_part(start, end):
            yield


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of experiments; the fields of a subclass are its settings.

    To add one, add a folder to `circuitlab.experiments` whose package defines a subclass with the folder's name. Its package must not load
    torch when it is imported: what measures is imported inside the methods.

    Attributes
    ----------
    name : str
        Name of its folder, of its page and of its figures.
    title, question : str
        Heading, and what is asked of the model.
    cite : tuple of str
        Citation keys of the papers; the first is the one that is replicated.
    cost : str
        Time on two cores for the default model, training included.
    version : int
        Increased when the same settings give other results.
    published : tuple of Claim
        What was published, each with the rule by which it counts as replicated.
    limits : tuple of str
        What the experiment cannot show, or does otherwise than the paper, one sentence each.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    cite: ClassVar[tuple[str, ...]]
    cost: ClassVar[str]
    version: ClassVar[int] = 1
    published: ClassVar[tuple[Claim, ...]]
    limits: ClassVar[tuple[str, ...]] = ()

    def gate(self, context: ExperimentContext) -> Gate:
        """Whether the question can be asked of the model; takes seconds to a minute."""
        raise NotImplementedError

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Run the experiment in steps (`ExperimentContext.stored`), and return plain data. Only called where the gate is met."""
        raise NotImplementedError

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """``published`` in the same order, each with what was measured and its verdict; reads plain data and loads no model."""
        raise NotImplementedError

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """The figures; imports neither torch nor transformers. ``subtitle`` names the model and the settings."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Name, version and settings."""
        return {"experiment": self.name, "version": self.version, "settings": msgspec.to_builtins(self)}


def interval_words(interval: Interval | Mapping[str, float], digits: int = 2) -> str:
    """``0.62 [0.50, 0.71]``; the estimate alone where there is no interval."""
    values = interval if isinstance(interval, Mapping) else interval.as_dict()
    limits = [float("nan") if limit is None else float(limit) for limit in (values["low"], values["high"])]
    mean = f"{float(values['mean']):.{digits}f}"
    return mean if any(map(math.isnan, limits)) else f"{mean} [{limits[0]:.{digits}f}, {limits[1]:.{digits}f}]"
