"""Random heads of the same layers: the control of every experiment that chooses heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head

if TYPE_CHECKING:
    import numpy as np

__all__ = ["other_heads", "random_heads"]


def random_heads(
    chosen: Sequence[Head], shape: tuple[int, int], n: int, rng: np.random.Generator, *, without: Sequence[Head] = ()
) -> list[tuple[Head, ...]]:
    """Random sets of as many heads as were chosen, none of them chosen.

    Parameters
    ----------
    chosen : sequence of Head
        The heads that the sets are compared with.
    shape : (int, int)
        Layers and heads per layer of the model.
    n : int
        Number of sets.
    rng : numpy Generator
    without : sequence of Head
        Other heads that are not drawn, for example those that were chosen for another part.

    Returns
    -------
    list of tuple of Head
        From the same layers. A layer that has too few other heads gives all of them, and each that is lacking comes from the nearest layer
        that has one left, the earlier of two: controls are at the depth of the heads that were chosen.

    Raises
    ------
    BadParameterError
        If fewer heads are left than were chosen.

    Examples
    --------
    >>> import numpy as np
    >>> random_heads([Head(1, 0)], (2, 2), 3, np.random.default_rng(0))
    [(Head(layer=1, head=1),), (Head(layer=1, head=1),), (Head(layer=1, head=1),)]
    """
    taken = {*chosen, *without}
    others = [head for head in (Head(layer, number) for layer in range(shape[0]) for number in range(shape[1])) if head not in taken]
    if len(others) < len(chosen):
        total = shape[0] * shape[1]
        what = f"{len(chosen)} heads were chosen, and {len(taken)} of {total} may not be drawn: too few are left for a random control."
        raise BadParameterError(what, "Choose fewer heads.")
    by_layer = {layer: [head for head in others if head.layer == layer] for layer in range(shape[0])}
    counts = dict.fromkeys(by_layer, 0)
    for layer in sorted(head.layer for head in chosen):
        free = [other for other in by_layer if counts[other] < len(by_layer[other])]
        counts[min(free, key=lambda other: (abs(other - layer), other))] += 1
    pools = [(by_layer[layer], count) for layer, count in counts.items() if count]
    return [tuple(pool[i] for pool, count in pools for i in rng.choice(len(pool), count, replace=False).tolist()) for _ in range(n)]


def other_heads(head: Head, n_heads: int, n: int, rng: np.random.Generator, *, without: Sequence[Head] = ()) -> list[Head]:
    """Different random heads of the layer of one head: its control where single heads are chosen.

    Parameters
    ----------
    head : Head
        The head that they are compared with.
    n_heads : int
        Heads of a layer.
    n : int
        Number of heads; all that there are, if these are fewer.
    rng : numpy Generator
    without : sequence of Head
        Other heads that are not drawn.

    Raises
    ------
    BadParameterError
        If the layer has no other head.

    Examples
    --------
    >>> import numpy as np
    >>> sorted(map(str, other_heads(Head(1, 0), 4, 9, np.random.default_rng(0), without=[Head(1, 2)])))
    ['a1.h1', 'a1.h3']
    """
    pool = [other for other in (Head(head.layer, number) for number in range(n_heads)) if other not in {head, *without}]
    if not pool:
        raise BadParameterError(f"Layer {head.layer} has no head beside {head} that may be drawn.", "Use a model with more heads.")
    return [pool[i] for i in rng.choice(len(pool), min(n, len(pool)), replace=False).tolist()]
