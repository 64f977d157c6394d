"""One thread a matrix product: the tests' networks are too small for more, and sums keep their order."""

import torch

torch.set_num_threads(1)
