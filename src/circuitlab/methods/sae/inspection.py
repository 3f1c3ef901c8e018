"""The tokens on which a code fires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Mlp
from circuitlab.methods.sae.outputs import node_outputs, nodes_of

if TYPE_CHECKING:
    from circuitlab.core.nodes import Node
    from circuitlab.methods.sae.dictionary import Dictionary
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Firing", "firings"]


@dataclass(frozen=True, slots=True)
class Firing:
    """One token position at which a node's output activates a code.

    Parameters
    ----------
    pair : int
        Number of the pair.
    side : {"clean", "corrupt"}
        Prompt of the pair.
    position : int
        Position in the prompt.
    token : int
        Token id at that position.
    text : str
        The token as text; empty for a model without a tokenizer.
    activation : float
        Activation of the code's unit.
    leads : bool
        Whether no other unit is more active at this position.
    """

    pair: int
    side: Literal["clean", "corrupt"]
    position: int
    token: int
    text: str
    activation: float
    leads: bool


def firings(model: Model, batch: ContrastBatch, dictionary: Dictionary, node: Node, code: int) -> list[Firing]:
    """Every position of every prompt at which a node's output activates a code, strongest first.

    The dictionary was trained on means over positions, or on marked positions. Here it encodes the node's output at each single position,
    which shows where in a prompt the code of the mean comes from.

    Parameters
    ----------
    model, batch : Model, ContrastBatch
        The model and the pairs.
    dictionary : Dictionary
        The dictionary of one trial.
    node : Node
        A query head or an MLP.
    code : int
        A unit of the dictionary.

    Raises
    ------
    UnknownNameError, BadParameterError
        If the model has no such node, or the dictionary has no such code.

    Notes
    -----
    One forward pass per prompt; the outputs of all nodes at all positions of one prompt are in memory at a time.
    """
    mlps = isinstance(node, Mlp)
    nodes = nodes_of(model.spec, mlps=mlps)
    if node not in nodes:
        raise UnknownNameError("node", str(node), map(str, nodes))
    if not 0 <= code < dictionary.n_units:
        what = f"Code {code} does not exist: the dictionary has {dictionary.n_units} units, and -1 means that no unit is active."
        raise BadParameterError(what, f"Use 0 to {dictionary.n_units - 1}.")
    all_firings: list[Firing] = []
    for side, tokens in (("clean", batch.clean), ("corrupt", batch.corrupt)):
        for pair in range(batch.n_pairs):
            length = int(batch.end[pair]) + 1
            row, end = tokens[pair : pair + 1, :length], batch.end[pair : pair + 1]
            positions = [end * 0 + position for position in range(length)]
            outputs = node_outputs(model, row, end, positions, mlps=mlps)[0, :, nodes.index(node)]
            activations = dictionary.encode(outputs)
            leads = dictionary.codes(outputs) == code
            for position in (activations[:, code] > 0).nonzero()[:, 0].tolist():
                token = int(row[0, position])
                text = "" if model.tokenizer is None else str(model.tokenizer.decode([token]))
                where = (pair, side, position, token, text)
                all_firings.append(Firing(*where, float(activations[position, code]), bool(leads[position])))  # type: ignore[arg-type]
    return sorted(all_firings, key=lambda firing: -firing.activation)
