"""The parts of a loaded Hugging Face model: found by watching it run, and used only after they pass tests."""

from circuitlab.model.anatomy.parts import HeadMap, LayerParts, ModelParts, Write

__all__ = ["HeadMap", "LayerParts", "ModelParts", "Write"]
