"""Sentence vectors; what needs the extra "language" is skipped without it."""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import time
from importlib.util import find_spec

import pytest
import torch

from gcrl import language
from tasks import InputError

extra = pytest.mark.skipif(
    find_spec("sentence_transformers") is None or find_spec(language.PACKAGE) is None, reason="needs gcrl[language]"
)
SENTENCES = ["lift the block", "move the gripper to the target", "push the block across the table"]


@pytest.fixture(scope="module")
def vectors():
    return language.encode(SENTENCES)


def refused(model: str, *words: str) -> None:
    """In one line, and soon."""
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        language.encode(["a"], model)
    said = str(caught.value)
    assert time.monotonic() - start < 10
    assert "\n" not in said
    assert 20 < len(said) < 350
    for word in words:
        assert word in said, said


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(language, "find_spec", lambda name: None)
    for call in (language.check, lambda: language.encode(["a"])):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == '--task-id language needs the extra "language": pip install "gcrl[language]"'


@pytest.mark.parametrize("model", ["/no/such/folder", "./none", "~/none/such", "a/b/c"])
def test_a_folder_that_is_not_there(model):
    """Refused before anything is imported."""
    with pytest.raises(InputError, match="no such folder"):
        language.load(model)


def test_where_a_model_lies(monkeypatch, tmp_path):
    """The default in its package, which is not imported; any folder, from home too; a name is for the hub."""
    spec = importlib.machinery.ModuleSpec(language.PACKAGE, None, origin="/somewhere/package/__init__.py")
    monkeypatch.setattr(language, "find_spec", lambda name: spec if name == language.PACKAGE else None)
    assert language.folder_of(language.DEFAULT) == "/somewhere/package/model"
    assert language.folder_of("another") is None
    assert language.folder_of(str(tmp_path)) == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert language.folder_of(f"~/{tmp_path.name}") == str(tmp_path)
    monkeypatch.setattr(language, "find_spec", lambda name: None)
    assert language.folder_of(language.DEFAULT) is None


def test_errors_become_short():
    assert language.short(OSError("first\n  line. second. third")) == "first line"
    assert language.short(KeyError()) == "KeyError"
    assert len(language.short(ValueError("x" * 999))) == 160


@extra
def test_unit_vectors(vectors):
    assert vectors.shape == (3, 384)
    assert vectors.dtype == torch.float32
    assert vectors.device.type == "cpu"
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


@extra
def test_a_vector_is_its_sentences_alone(vectors):
    """Whatever comes before and after it; so a new sentence can be added later."""
    again = language.encode([SENTENCES[2], "something else, and much longer than all of the others", SENTENCES[0]])
    assert torch.equal(again[0], vectors[2])
    assert torch.equal(again[2], vectors[0])


@extra
def test_near_in_meaning_is_near_in_angle(vectors):
    other = language.encode(["raise the block", "bring the gripper to the goal", "slide the block over the table"])
    assert (other @ vectors.mT).argmax(1).tolist() == [0, 1, 2]


@extra
def test_vectors_can_be_learned_from(vectors):
    """They are ordinary tensors: a product with parameters can be differentiated."""
    weight = torch.randn(384, 2, requires_grad=True)
    (vectors @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, vectors.sum(0)[:, None].expand(-1, 2))


@extra
def test_nothing_is_printed_and_no_draw_is_taken(capfd, recwarn):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    language.encode(SENTENCES[:1])
    child = os.fork()  # tokenizers warn of that
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), before)
    assert not [w for w in recwarn if w.category is not DeprecationWarning]


@extra
def test_models_that_cannot_be_loaded(monkeypatch, tmp_path):
    """An empty folder, half a model, a name that is nowhere, a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    refused(str(tmp_path), str(tmp_path))
    (tmp_path / "config.json").write_text("{not json")
    refused(str(tmp_path), str(tmp_path))
    refused("no-such-model", "no-such-model", "ConnectionError")
    refused("some/where", "some/where", "ConnectionError")


@extra
def test_a_folder_with_a_pickle_only_is_refused(tmp_path):
    place = language.folder_of(language.DEFAULT)
    shutil.copytree(place, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    refused(str(tmp_path / "model"), "safetensors")


@extra
def test_the_hub_is_asked_only_for_what_is_not_here(monkeypatch):
    """With the default's package there is no need for a network."""
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    assert language.encode(["a"]).shape == (1, 384)


@extra
def test_a_name_is_looked_up_here_then_asked_for_then_downloaded(monkeypatch):
    calls = []

    def transformer(name, local_files_only=False, **told):
        assert told == {"device": "cpu", "model_kwargs": {"use_safetensors": True}}
        calls.append((name, local_files_only))
        if local_files_only:
            raise OSError("not in the cache")
        return "the model"

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", transformer)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, timeout: calls.append((name, timeout)))
    assert language.load("some-model") == "the model"
    assert calls == [("some-model", True), ("sentence-transformers/some-model", 5.0), ("some-model", False)]


def unreachable(*args, **kwargs):
    raise ConnectionError("no network")
