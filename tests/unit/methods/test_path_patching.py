"""Path patching obeys the laws, finds the planted circuit, chains paths, and refuses misuse."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.methods.path_patching import PathPatching
from circuitlab.testing.method_laws import FAMILIES, check_method


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_law_holds(family, direction) -> None:
    assert len(check_method(PathPatching(direction=direction), families=(family,))) > 8
