"""Screened patching: gradients for every node, exact patching where it matters, and a bound on what was missed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec
import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.progress import progress_part
from circuitlab.execute.arrangement import arrangement_on
from circuitlab.execute.contract import fields_as_tuples, provenance_of
from circuitlab.execute.needs import prepared
from circuitlab.execute.nodes_in_trace import NodeSelection
from circuitlab.execute.reference import with_reference
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.atp_star import AttributionPatchingStar
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from circuitlab.execute.chunks import Chunks
    from circuitlab.execute.cost import RunSize
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["ScreenedPatching", "Search", "missed_at_most"]

_PARTS = ("heads", "attns", "mlps")
_SCREEN = 0.1
"""Share of the time that the gradients take, for the progress bar."""


@dataclass(frozen=True)
class ScreenedPatching:
    """Exact effects of the ``k`` strongest nodes, found by gradients first (Kramar et al. 2024, section on diagnostics).

    AtP* scores every node. Nodes are then patched exactly, strongest estimate first: ``2 k`` of them, and ``k / 2`` more as long as the
    last such group brought a node into the top ``k``, or an estimate that was not checked would stand among them. A random sample of the
    nodes after the first ``2 k`` is patched with these: what it finds above the ``k``-th effect counts as missed, and more nodes, and a
    new sample of those that remain, are patched until a sample finds nothing. The top ``k`` of the result are therefore exact; below
    them, estimates and exact effects stand side by side.

    Parameters
    ----------
    direction : {"denoising", "noising"}
        As in `ActivationPatching`.
    parts : tuple of str
        Any of heads, attns, mlps; ``k`` counts over all of them.
    positions : tuple of str
        ``("all",)`` or marks of the task; with marks, a node at one mark is what is counted.
    k : int
        How many of the strongest nodes, by the magnitude of the mean effect over pairs, must be exact.
    sample : int
        Nodes of each random sample.
    confidence : float
        Of the bound on what was missed, in (0, 1).
    seed : int
        Of the samples.

    Notes
    -----
    ``provenance.measured`` says what was done: ``patched`` of ``nodes`` were patched exactly; ``sampled`` of them at random in the last
    sample, out of the ``rest`` that it was drawn from; ``missed_at_most`` is the largest number of nodes among the rest beyond the
    ``k``-th effect that such a sample would not have shown with more than 1 - ``confidence`` (hypergeometric; divided over the samples
    that were looked at), and no more than there are unpatched nodes; ``screen_error``, the root mean square of estimate minus exact mean
    effect over all that were patched.

    The score of a pair depends on the batch it stands in, since means over pairs decide which nodes are patched.

    References
    ----------
    Kramar et al. (2024), AtP*: An efficient and scalable method for localizing LLM behaviour to components, arXiv:2403.00745.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> scores = cl.score(planted.model, planted.batch(4), ScreenedPatching(k=2, parts="heads", sample=2))
    >>> sorted(str(entry.node) for entry in scores.top(2)), sorted(map(str, planted.nodes))
    (['a1.h1', 'a1.h2'], ['a1.h1', 'a1.h2'])
    """

    name: ClassVar[str] = "screened_patching"
    estimand: ClassVar[str] = "total effect of swapping a node's output between the runs: exact for the strongest, first-order elsewhere"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    cost: ClassVar[str] = "that of AtP*, and pairs x (about 2 k + sample) runs from the patched layer on"
    cite: ClassVar[tuple[str, ...]] = ("kramar2024", "heimersheim2024")
    pooled: ClassVar[bool] = True
    streamed_fault: ClassVar[str] = ""

    direction: Literal["denoising", "noising"] = "denoising"
    parts: tuple[str, ...] = ("heads", "mlps")
    positions: tuple[str, ...] = ("all",)
    k: int = 20
    sample: int = 20
    confidence: float = 0.95
    seed: int = 0
    pairs_per_pass: int | None = field(default=None, metadata={"identity": False})

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        for part in self.parts:
            if part not in _PARTS:
                raise UnknownNameError("part", part, _PARTS)
        if self.positions == ("each",):
            raise BadParameterError("positions=('each',) has no fixed list of nodes.", "Name marks, or use activation_patching.")
        if self.k < 1 or self.sample < 1 or not 0 < self.confidence < 1:
            what = f"k={self.k}, sample={self.sample}, confidence={self.confidence} cannot be used."
            raise BadParameterError(what, "Use at least 1 node, a sample of 1 or more, and a confidence such as 0.95.")
        self._exact, self._screen  # noqa: B018 - refuse what they refuse

    @property
    def contrastive(self) -> bool:
        """Always: equal prompts leave nothing to swap."""
        return True

    @property
    def _exact(self) -> ActivationPatching:
        return ActivationPatching(self.direction, self.parts, "z", self.positions, pairs_per_pass=self.pairs_per_pass)

    @property
    def _screen(self) -> AttributionPatchingStar:
        return AttributionPatchingStar(self.direction, self.parts, "z", self.positions)

    def passes(self, size: RunSize) -> float:
        """Those of AtP*, and one run for each node that is patched."""
        nodes = size.nodes(self.parts) * size.places(self.positions)
        return self._screen.passes(size) + size.rerun(min(nodes, 2.5 * self.k + self.sample))

    def chunks(self, model: Model, batch: ContrastBatch) -> Chunks:
        """Chunks of pairs that are patched, and their memory or that of the gradients before, whichever is more.

        What is found decides how often there is more to patch; the readings are those of one more time.
        """
        screen = self._screen.chunks(model, batch)
        waves = list(arrangement_on(model, screen.fits).waves(screen.pairs))
        exact = self._exact.chunks_of(model, batch, 2 * self.k + self.sample)
        return replace(
            exact,
            readings=lambda pairs: 2 * exact.readings(pairs),
            more_readings=2 * len(waves),
            elsewhere=max(map(screen.bytes_of, waves), default=0),
        )

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Score every node; parts have shape (pair[, mark], layer[, head]) in metric units."""
        batch = with_reference(model, metric, batch)
        marks = NodeSelection(self.parts, "z", self.positions).marks(batch)
        with progress_part(0.0, _SCREEN):
            screen = self._screen(model, batch, metric)
        estimates = np.concatenate([screen.dataset[part].values.reshape(batch.n_pairs, -1) for part in self.parts], axis=1)
        search = Search(self, estimates.astype(np.float64), functools.partial(self._exact.effects_of, model, batch, metric))
        with progress_part(_SCREEN, 1.0):
            search.run()
        arrays = {"clean": search.clean, "corrupt": search.corrupt, "total": search.clean - search.corrupt}
        about = msgspec.structs.replace(provenance_of(self, model, batch, metric), measured=search.measured())
        return HeadScores.build({**arrays, **self._exact.shape(search.effects, model, marks)}, about, marks)


class Search:
    """Which nodes are exact by now, and what else is to be patched.

    Parameters
    ----------
    method : ScreenedPatching
        Its ``k``, ``sample``, ``confidence`` and ``seed``.
    estimates : ndarray, shape (pair, node)
        From the screen.
    patch : callable
        From node numbers to ``{"effects": (pair, node), "clean": (pair,), "corrupt": (pair,)}``.
    """

    def __init__(self, method: ScreenedPatching, estimates: np.ndarray, patch: Callable[[list[int]], dict[str, np.ndarray]]) -> None:
        self._method, self._exact_effects = method, patch
        self.estimates, self.effects = estimates, estimates.copy()
        self.patched = np.zeros(estimates.shape[1], dtype=bool)
        self.clean, self.corrupt = (np.zeros(len(estimates)) for _ in range(2))
        self.bound, self.sampled, self.rest = 0, 0, 0

    def run(self) -> None:
        """Patch until the top k are exact and a random sample of the rest shows nothing above them.

        The first sample is patched in one sweep with the strongest estimates: what it is drawn from is known before any exact effect is.
        """
        method, generator, more = self._method, np.random.default_rng(self._method.seed), max(1, self._method.k // 2)
        strongest = self._strongest(2 * method.k)
        rest = np.setdiff1d(np.arange(len(self.patched)), strongest)
        chosen = self._drawn(generator, rest)
        self._patch(np.concatenate([strongest, chosen]))
        self._last, looks = strongest[-more:], 1
        while len(rest):
            while not self.patched.all() and (self._unchecked_above() or self._in_top(self._last)):
                self._patch(self._strongest(more))
            if not self._in_top(chosen):
                # Every further look may take half of what risk is left, so that all looks together stay inside it.
                bound = missed_at_most(len(rest), len(chosen), (1 - method.confidence) / 2**looks)
                self.bound, self.sampled, self.rest = min(bound, int((~self.patched).sum())), len(chosen), len(rest)
                break
            self._patch(self._strongest(more))
            rest, looks = np.flatnonzero(~self.patched), looks + 1
            chosen = self._drawn(generator, rest)
            last = self._last
            self._patch(chosen)
            self._last = last

    def measured(self) -> dict[str, float]:
        """What `provenance.measured` holds."""
        apart = (self.effects - self.estimates).mean(axis=0)[self.patched]
        return {
            "nodes": float(len(self.patched)),
            "patched": float(self.patched.sum()),
            "rest": float(self.rest),
            "sampled": float(self.sampled),
            "missed_at_most": float(self.bound),
            "screen_error": float(np.sqrt(np.mean(apart**2))),
        }

    def _drawn(self, generator: np.random.Generator, rest: np.ndarray) -> np.ndarray:
        """A random sample of the rest, in order."""
        return np.sort(generator.choice(rest, min(self._method.sample, len(rest)), replace=False))

    def _size(self) -> np.ndarray:
        return np.asarray(np.abs(self.effects.mean(axis=0)))

    def _limit(self) -> float:
        """The k-th largest exact effect; 0 as long as fewer are exact."""
        exact = np.sort(self._size()[self.patched])[::-1]
        return float(exact[self._method.k - 1]) if len(exact) >= self._method.k else 0.0

    def _unchecked_above(self) -> bool:
        return bool((self._size()[~self.patched] > self._limit()).any())

    def _in_top(self, columns: np.ndarray) -> bool:
        """Whether any of some exact nodes is among the k strongest; a node without any effect never is."""
        size = self._size()[columns]
        return bool(((size >= self._limit()) & (size > 0)).any())

    def _strongest(self, count: int) -> np.ndarray:
        """The nodes with the largest estimates that are not exact yet."""
        rest = np.flatnonzero(~self.patched)
        order = np.argsort(-np.abs(self.estimates.mean(axis=0))[rest], kind="stable")
        return rest[order[:count]]

    def _patch(self, columns: np.ndarray) -> None:
        if not len(columns):
            return
        exact = self._exact_effects([int(i) for i in columns])
        self.effects[:, columns], self.clean, self.corrupt = exact["effects"], exact["clean"], exact["corrupt"]
        self.patched[columns] = True
        self._last = columns[-max(1, self._method.k // 2) :]


def missed_at_most(rest: int, sample: int, risk: float) -> int:
    """How many of ``rest`` nodes may matter although none of a random ``sample`` of them did.

    Parameters
    ----------
    rest : int
        Nodes that the sample was drawn from, without replacement.
    sample : int
        Size of the sample.
    risk : float
        Probability of being wrong.

    Returns
    -------
    int
        The largest number M with C(rest - M, sample) / C(rest, sample) > ``risk``: the exact hypergeometric limit.

    Examples
    --------
    >>> missed_at_most(200, 20, 0.05), missed_at_most(20, 20, 0.05)
    (26, 0)
    """
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    counts = np.arange(rest - sample + 1)
    unseen = stats.hypergeom.pmf(0, rest, counts, sample)
    return int(counts[unseen > risk].max())
