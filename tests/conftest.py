"""What all tests share: one thread a matrix product, and nothing is compiled that nobody asks for."""

import math

import pytest
import torch

from gcrl import compiled

torch.set_num_threads(1)  # the tests' networks are too small for more, and sums keep their order


@pytest.fixture(autouse=True)
def as_short(monkeypatch):
    """Plans of many steps, of which a test takes few, are not compiled for them: it takes a minute."""
    monkeypatch.setattr(compiled, "LONG", math.inf)
