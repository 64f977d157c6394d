"""Products from bfloat16: which ones, how far from float32, and who is refused."""

from __future__ import annotations

import pytest
import torch

from gcrl import layers, machine
from gcrl.cli import guarded
from gcrl.train import main
from tasks import InputError

ULP = 2.0**-8
"""Of bfloat16, relative."""


@pytest.fixture
def rounding():
    layers.round_products(True)
    yield
    layers.round_products(False)


def truth(a, b):
    """The product of the rounded factors, in double."""
    return a.bfloat16().double() @ b.bfloat16().double()


def test_wide_products_are_those_of_the_rounded_factors(rounding):
    torch.manual_seed(0)
    h, w, b, g = torch.randn(160, 128), torch.randn(128, 256), torch.randn(256), torch.randn(160, 256)
    out = torch.empty(128, 256)
    layers.outer(h, g, out)
    found = {"product": layers.product(h, w, b) - b, "back": layers.back(g, w), "outer": out}
    wanted = {"product": truth(h, w), "back": truth(g, w.t()), "outer": truth(h.t(), g)}
    exact = {"product": h @ w, "back": g @ w.t(), "outer": h.t() @ g}
    for name, y in found.items():
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.double(), wanted[name], rtol=ULP, atol=1e-4, msg=name)
        assert not torch.allclose(y, exact[name], rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("sizes", [(64, 256, 256), (256, 20, 256), (256, 256, 4)])
def test_what_is_small_is_not_rounded(rounding, sizes):
    rows, i, o = sizes
    h, w, b, g = torch.randn(rows, i), torch.randn(i, o), torch.randn(o), torch.randn(rows, o)
    out, as_ever = torch.empty(i, o), torch.empty(i, o)
    found = layers.product(h, w, b), layers.back(g, w)
    layers.outer(h, g, out)
    layers.round_products(False)
    layers.outer(h, g, as_ever)
    for y, wanted in zip((*found, out), (layers.product(h, w, b), layers.back(g, w), as_ever), strict=True):
        assert torch.equal(y, wanted)


def test_double_stays_double(rounding):
    h = torch.randn(128, 128, dtype=torch.float64)
    assert torch.equal(layers.back(h, h), h @ h.t())


def through(x, seed=0):
    """What two networks of two hidden layers with norms answer, and the gradients."""
    torch.manual_seed(seed)
    hidden = [layers.Linears(2, 8, 128), layers.Linears(2, 128, 128)]
    norms, last = [layers.Norms(2, 128) for _ in hidden], layers.Linears(2, 128, 1)
    y = layers.stack(x, hidden, norms, last)
    wanted = [p for part in (*hidden, *norms, last) for p in part.parameters()]
    return [y, *torch.autograd.grad((y**2).sum(), wanted)]


def slopes(x):
    """What they answer where it can be differentiated twice, and the gradients of the slopes' size."""
    x = x.expand(2, *x.shape).clone().requires_grad_()
    torch.manual_seed(0)
    hidden, last = [layers.Linears(2, 8, 128), layers.Linears(2, 128, 128)], layers.Linears(2, 128, 1)
    with layers.twice():
        y = layers.stack(x, hidden, [], last)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return [y, slope, *torch.autograd.grad((slope**2).sum(), [*(p.weight for p in hidden), last.weight])]


@pytest.mark.parametrize(("asked", "near"), [(through, 0.03), (slopes, 0.1)])  # in a slope units open, or shut
def test_a_stack_goes_where_float32_goes(rounding, asked, near):
    """Answers and every gradient, within what eight bits allow; and not the same, so that something was rounded."""
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
    rough = asked(x)
    layers.round_products(False)
    fine = asked(x)
    for a, b in zip(rough, fine, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < near * b.norm()
    assert all(not torch.equal(a, b) for a, b in zip(rough, fine, strict=True))


def test_float32_is_the_default_and_comes_back():
    machine.prepare(1, "bfloat16") if layers.can_round() else layers.round_products(True)
    assert layers.ROUNDED
    machine.prepare(1)
    assert not layers.ROUNDED


def test_a_machine_without_them_is_told(monkeypatch):
    monkeypatch.setattr(layers, "can_round", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # there is a GPU, which is not asked to
    with pytest.raises(InputError, match="take float32"):
        machine.prepare(1, "bfloat16", "cpu")


def test_an_unknown_precision_is_one_line(tmp_path, capfd):
    assert guarded(main, ["--precision", "float16", "--runs", str(tmp_path / "runs")]) == 2
    said = capfd.readouterr().err
    assert "choose from float32, bfloat16" in said and said.count("\n") == 1 and not (tmp_path / "runs").exists()
