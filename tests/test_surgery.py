"""Gradient surgery against closed forms, the paper's loops and the dual problem."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from gcrl import surgery
from gcrl.optim import adam, step
from gcrl.surgery import SURGERIES, cagrad, pcgrad, simplex_weights

every_surgery = pytest.mark.parametrize("how", SURGERIES)


def gradients(k, p, seed=0, spread=1.0, common=0.0):
    """(K, P) in double precision, of lengths that differ by up to 10^spread."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(k, p)) * 10 ** rng.uniform(-spread, spread, (k, 1)) + common * rng.normal(size=p)
    return torch.from_numpy(g)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# PCGrad -------------------------------------------------------------------------------------------------------------


def loop(grads, generator):
    """Algorithm 1, vector by vector."""
    k = len(grads)
    orders = torch.rand(k, k, generator=generator).argsort(1).tolist()
    done = []
    for i in range(k):
        g = grads[i].clone()
        for j in orders[i]:
            if j != i and g @ grads[j] < 0:
                g -= g @ grads[j] / (grads[j] @ grads[j]) * grads[j]
        done.append(g)
    return sum(done) / k


@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_is_the_papers_loop(k, seed):
    grads = gradients(k, 6, seed)
    torch.testing.assert_close(pcgrad(grads, seeded(seed)), loop(grads, seeded(seed)))


def test_pcgrad_of_two():
    """Each loses its part along the other: g_1 - (g_1 . g_2 / |g_2|^2) g_2 and the reverse, whatever the order."""
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 1.0])
    wanted = ((a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)) / 2
    torch.testing.assert_close(wanted, torch.tensor([0.5, 1.0]))
    for seed in range(4):
        torch.testing.assert_close(pcgrad(torch.stack([a, b]), seeded(seed)), wanted)


def test_opposite_gradients_cancel():
    g = torch.tensor([[1.0, 2.0], [-2.0, -4.0]])
    torch.testing.assert_close(pcgrad(g), torch.zeros(2))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_without_conflict_pcgrad_is_the_mean(k):
    """The gradient of the mean loss, and not of the sum."""
    grads = gradients(k, 8).abs()
    torch.testing.assert_close(pcgrad(grads), grads.mean(0))
    torch.testing.assert_close(pcgrad(torch.eye(4)), torch.full((4,), 0.25))  # orthogonal is no conflict


@pytest.mark.parametrize("seed", range(10))
def test_two_tasks_never_conflict_with_the_step(seed):
    grads = gradients(2, 5, seed)
    assert (grads @ pcgrad(grads) >= -1e-9).all()


def test_the_order_is_random_and_the_seed_decides():
    grads = gradients(6, 4, 1)
    steps = [pcgrad(grads, seeded(seed)) for seed in range(8)]
    assert len({tuple(x.tolist()) for x in steps}) > 3
    assert torch.equal(pcgrad(grads, seeded(3)), steps[3])
    torch.manual_seed(3)
    assert torch.equal(pcgrad(grads), steps[3])


# CAGrad -------------------------------------------------------------------------------------------------------------


def dual(w, grads, c):
    """g_w . g_0 + c ||g_0|| ||g_w||, for weights (M, K)."""
    g, g0 = w @ grads.numpy(), grads.numpy().mean(0)
    return g @ g0 + c * np.linalg.norm(g0) * np.linalg.norm(g, axis=1)


def simplex(k, n=100_000):
    """Points of the simplex, its corners and edges among them: (M, K)."""
    if k == 2:
        first = np.linspace(0, 1, 10_001)
        return np.stack([first, 1 - first], 1)
    rng = np.random.default_rng(0)
    w = rng.dirichlet(np.full(k, 0.7), n)
    pairs = np.eye(k)[list(itertools.combinations(range(k), 2))]  # (E, 2, K)
    t = np.linspace(0, 1, 1001)[:, None, None]
    return np.concatenate([w, (t * pairs[:, 0] + (1 - t) * pairs[:, 1]).reshape(-1, k)])


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("seed", range(6))
def test_no_weights_are_better(k, c, seed):
    """On a dense grid for two tasks, and among many points for three; and some are nearly as good."""
    grads = gradients(k, 4, seed, common=seed % 2)
    w, length = simplex_weights((grads @ grads.mT).numpy(), c)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1)
    assert length == pytest.approx(np.linalg.norm(w @ grads.numpy()), rel=1e-4, abs=1e-5)
    known, scale = dual(simplex(k), grads, c).min(), abs(grads @ grads.mean(0)).max().item()
    mine = dual(w[None], grads, c)[0]
    assert mine <= known + 1e-7 * scale
    assert mine >= known - 0.02 * scale


@pytest.mark.parametrize(("k", "p"), [(2, 50), (3, 2), (4, 30), (7, 500), (10, 1000)])
@pytest.mark.parametrize("c", [0.05, 0.4, 0.99])
def test_the_worst_improvement_is_the_value_of_the_dual(k, p, c):
    """Which proves both best (strong duality): min_i g_i . d = min_w g_w . g_0 + c ||g_0|| ||g_w||."""
    for seed in range(5):
        grads = gradients(k, p, seed, common=seed % 2)
        d, g0 = cagrad(grads, c), grads.mean(0)
        w, _ = simplex_weights((grads @ grads.mT).numpy(), c)
        worst, scale = (grads @ d).min().item(), abs(grads @ g0).max().item()
        assert worst == pytest.approx(dual(w[None], grads, c)[0], abs=1e-6 * scale)
        assert worst >= (grads @ g0).min() - 1e-9 * scale
        assert (d - g0).norm() <= c * g0.norm() * (1 + 1e-9)


def test_cagrad_of_two_by_hand():
    """g_0 = (.5, 0), radius .2; the second is the worse of the two, along -x: d = .5 - .2."""
    grads = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(cagrad(grads), torch.tensor([0.3, 0.0]))
    symmetric = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])  # the mean (0, 1) serves both: only its length grows
    torch.testing.assert_close(cagrad(symmetric, 0.5), torch.tensor([0.0, 1.5]))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_without_radius_cagrad_is_the_mean(k):
    grads = gradients(k, 8)
    torch.testing.assert_close(cagrad(grads, 0.0), grads.mean(0))


def test_one_task_takes_its_own_gradient():
    grads = gradients(1, 5)
    torch.testing.assert_close(pcgrad(grads), grads[0])
    torch.testing.assert_close(cagrad(grads, 0.4), 1.4 * grads[0])


# Both ---------------------------------------------------------------------------------------------------------------


@every_surgery
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_stay_finite(how, dtype):
    """No gradient at all, one that vanishes, opposites, copies, tiny and huge ones."""
    g = gradients(3, 6)
    cases = [g * 0, torch.stack([g[0], g[0] * 0]), torch.stack([g[0], -g[0]]), g[:1].expand(4, -1), g * 1e-12, g * 1e12]
    cases += [torch.stack([g[0], -1e-25 * g[0]])]
    for case in cases:
        d = SURGERIES[how](case.to(dtype))
        assert d.dtype == dtype
        assert d.isfinite().all()
        assert d.norm() <= 2 * case.norm(dim=1).max()
    assert (SURGERIES[how](g * 0) == 0).all()


@every_surgery
def test_the_scale_of_all_gradients_is_the_scale_of_the_step(how):
    grads = gradients(4, 6)
    one = SURGERIES[how](grads) if how == "cagrad" else pcgrad(grads, seeded())
    two = SURGERIES[how](grads * 7) if how == "cagrad" else pcgrad(grads * 7, seeded())
    torch.testing.assert_close(two, 7 * one, rtol=1e-5, atol=1e-8)


def net_and_losses(seed=0):
    """A trunk, two heads, an idle layer; a loss a head."""
    torch.manual_seed(seed)
    net = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("trunk", "a", "b", "idle")})
    x = torch.randn(8, 4)
    h = torch.tanh(net["trunk"](x))
    return net, [(net[name](h) ** 2).mean() * c for name, c in (("a", 1.0), ("b", 3.0))]


def test_with_the_mean_it_is_a_plain_step():
    """To rounding, for a few steps of Adam; what no loss reaches is left alone."""
    (one, losses), (two, again) = net_and_losses(), net_and_losses()
    surgery.apply(adam(one, 0.01), losses, lambda grads: grads.mean(0))
    step(adam(two, 0.01), torch.stack(again).mean())
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == name.startswith("idle")
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-8)


@every_surgery
def test_the_gradients_are_the_tasks_own(how):
    """Stacked in the order of the losses; what a task does not reach is zero; the result is written back in place."""
    net, losses = net_and_losses()
    seen = []

    def spy(grads):
        seen.append(grads)
        torch.manual_seed(1)
        return SURGERIES[how](grads)

    surgery.apply(torch.optim.SGD(net.parameters(), lr=0.0), losses, spy)
    (grads,) = seen
    torch.manual_seed(1)
    combined = SURGERIES[how](grads)
    assert torch.equal(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]), combined[:60])
    net, losses = net_and_losses()
    for k, loss in enumerate(losses):
        net.zero_grad()
        loss.backward(retain_graph=True)
        wanted = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
        torch.testing.assert_close(grads[k], torch.cat([g.flatten() for g in wanted]))


@every_surgery
def test_only_this_optimizers_parameters_move(how):
    net, losses = net_and_losses()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net["b"].weight.grad = torch.full((4, 4), 7.0)
    surgery.apply(adam(net["trunk"], 0.1), losses, SURGERIES[how])
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]) == (not name.startswith("trunk"))
    assert (net["b"].weight.grad == 7).all()
    assert net["a"].weight.grad is None


CURES = {
    "mean": lambda grads: grads.mean(0),
    "pcgrad": partial(pcgrad, generator=seeded()),
    "cagrad": partial(cagrad, c=0.9),
}


@pytest.mark.parametrize("how", CURES)
def test_a_steep_task_drowns_a_gentle_one_but_for_surgery(how):
    """Steps of a bounded length; 100 |x| overshoots for ever, and |y - 2| + |x - 1| / 2 is left with a hundredth."""
    p = nn.Parameter(torch.tensor([0.55, -2.0]))
    optimizer = torch.optim.SGD([p], lr=0.1)

    def bounded(grads):
        d = CURES[how](grads)
        return d / d.norm().clamp(min=1)

    for _ in range(300):
        surgery.apply(optimizer, [100 * p[0].abs(), (p[1] - 2).abs() + 0.5 * (p[0] - 1).abs()], bounded)
    left = abs(p[1].item() - 2)
    assert left > 3.5 if how == "mean" else left < 0.2
