"""A functional forward built from the parts of a loaded model: every step inside a layer can be read, edited and differentiated."""

from circuitlab.model.decoder.block import Block
from circuitlab.model.decoder.cache import Cache
from circuitlab.model.decoder.decoder import Decoder, Trace
from circuitlab.model.decoder.layer import LayerTrace
from circuitlab.model.decoder.linear import Linear

__all__ = ["Block", "Cache", "Decoder", "LayerTrace", "Linear", "Trace"]
