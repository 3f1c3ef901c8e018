"""Where the parts of a loaded Hugging Face model are: found by watching it run, and believed only after they were tested."""

from circuitlab.model.anatomy.parts import HeadMap, LayerParts, ModelParts, Write

__all__ = ["HeadMap", "LayerParts", "ModelParts", "Write"]
