"""Every body against loops over networks, rows, tasks, experts and modules, one vector at a time. Long: five bodies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gcrl.bodies import BODIES, Conditioned, Tied, narrow, spread, tie_of
from gcrl.layers import Linears, Norms, side_by_side
from gcrl.nets import Critics

N, DIM, OUT, K = 3, 9, 2, 3
IDENT = slice(4, 4 + K)  # in the middle: an action may follow
NONE, SOME = slice(None), [slice(0, 1), slice(1, 3), slice(2, None), slice(0, 3, 2), slice(-2, None)]

every_body = pytest.mark.parametrize("name", BODIES)
norm_or_not = pytest.mark.parametrize("layer_norm", [False, True])


def moved(module):
    """The module, no two parameters alike, in double precision."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module.double()


def made(name, hidden=(12, 8), layer_norm=True, dim=DIM, out=OUT, n=N, ident=IDENT, **more):
    torch.manual_seed(0)
    return moved(BODIES[name](n, dim, out, hidden, ident, layer_norm, **more))


def rows(size=20, tasks=None, seed=0):
    """Inputs (B, DIM) with a one-hot id in the middle; and the tasks (B,)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(size, DIM, generator=g, dtype=torch.float64)
    task = torch.randint(K, (size,), generator=g) if tasks is None else torch.tensor(tasks, dtype=torch.int64)
    x[:, IDENT] = torch.eye(K, dtype=torch.float64)[task]
    return x, task


# The references -----------------------------------------------------------------------------------------------------


def linear(layer, k, v):
    return v @ layer.weight[k] + layer.bias[k, 0]


def stack(trunk, k, v):
    """Hidden layers of network k on one vector."""
    for i, layer in enumerate(trunk.layers):
        v = linear(layer, k, v)
        if len(trunk.norms):
            norm = trunk.norms[i]
            v = (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt() * norm.weight[k, 0] + norm.bias[k, 0]
        v = v.clamp(min=0)
    return v


def conditioned(body, k, v):
    return linear(body.out, k, stack(body.trunk, k, v))


def others(v):
    return torch.cat([v[: IDENT.start], v[IDENT.stop :]])


def heads(body, k, v):
    task = int(v[IDENT].argmax())
    h = stack(body.trunk, k, others(v))
    of_task = slice(task * OUT, (task + 1) * OUT)
    return h @ body.out.weight[k][:, of_task] + body.out.bias[k, 0, of_task]


def probabilities(logits):
    e = [x.exp() for x in logits]
    return [x / sum(e) for x in e]


def modular(body, k, v):
    m, f = body.m, stack(body.f, k, v)
    both = f * linear(body.h, k, v[IDENT])
    g, p = [f] * m, None
    for i, layer in enumerate(body.layers):
        p = linear(body.down[i], k, (both if p is None else both * linear(body.up[i - 1], k, p)).clamp(min=0))
        inner = [stack(layer, k * m + j, g[j]) for j in range(m)]
        routes = [probabilities(p[a * m : (a + 1) * m]) for a in range(m)]
        g = [sum(routes[a][j] * inner[j] for j in range(m)) for a in range(m)]
    return sum(linear(body.out, k * m + j, g[j]) for j in range(m))


def experts(body, k, v):
    alpha = probabilities(linear(body.gate, k, v[IDENT]))
    return linear(body.out, k, sum(alpha[j] * stack(body.trunk, k * body.m + j, v) for j in range(body.m)))


def tied(body, k, v):
    return conditioned(body.nets, k * K + int(v[IDENT].argmax()), others(v))


REFERENCES = {"conditioned": conditioned, "heads": heads, "modular": modular, "experts": experts, "tied": tied}


def reference(name, body, x):
    """(n, B, out), x (B, dim) or (n, B, dim)."""
    inputs = x.expand(body.n, *x.shape[-2:])
    return torch.stack([torch.stack([REFERENCES[name](body, k, v) for v in inputs[k]]) for k in range(body.n)])


def test_every_body_has_a_reference():
    assert set(REFERENCES) == set(BODIES)


@every_body
@norm_or_not
@pytest.mark.parametrize("hidden", [(12, 8), (6, 10, 7)], ids=str)
def test_a_body_is_its_equation(name, hidden, layer_norm):
    """Values, and gradients of parameters and inputs."""
    body, (x, _) = made(name, hidden, layer_norm), rows()
    x.requires_grad_()
    wanted, y = reference(name, body, x), body(x)
    assert y.shape == (N, 20, OUT)
    torch.testing.assert_close(y, wanted)
    inputs = [x, *body.parameters()]
    weight = torch.randn(y.shape, dtype=torch.float64)
    ours = torch.autograd.grad((y * weight).sum(), inputs)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b)
    free = [i for i in range(DIM) if i not in range(DIM)[IDENT]]  # a one-hot id is data
    torch.testing.assert_close(ours[0][:, free], theirs[0][:, free])


@every_body
@pytest.mark.parametrize("m", [1, 2, 5])
def test_any_number_of_modules(name, m):
    body, (x, _) = made(name, m=m), rows(7)
    torch.testing.assert_close(body(x), reference(name, body, x))


@every_body
def test_networks_may_see_inputs_of_their_own(name):
    body = made(name)
    x = torch.stack([rows(11, seed=k)[0] for k in range(N)])
    torch.testing.assert_close(body(x), reference(name, body, x))
    torch.testing.assert_close(body(x[0].expand(N, -1, -1)), body(x[0]))


@every_body
@pytest.mark.parametrize("some", SOME, ids=str)
def test_some_networks_are_the_same_networks(name, some):
    body, (x, _) = made(name), rows()
    torch.testing.assert_close(body(x, some), body(x)[some])
    apart = torch.stack([rows(11, seed=k)[0] for k in range(N)])
    torch.testing.assert_close(body(apart[some], some), body(apart)[some])
    body(x, some).sum().backward()
    used = torch.zeros(N, dtype=torch.bool)
    used[some] = True
    for p in body.parameters():
        per = p.grad.unflatten(0, (N, -1)).abs().flatten(1).sum(1)
        assert not (per[~used] > 0).any()
    assert torch.equal(body.get_parameter(last(name)).grad.unflatten(0, (N, -1)).abs().flatten(1).sum(1) > 0, used)


def last(name):
    return "nets.out.weight" if name == "tied" else "out.weight"


@every_body
@pytest.mark.parametrize("tasks", [[], [2], [1, 1, 1, 1], [0, 2, 0, 0, 2]], ids=str)
def test_batches_of_any_tasks(name, tasks):
    """None, one row, one task only, a task without rows."""
    body, (x, _) = made(name), rows(len(tasks), tasks)
    y = body(x)
    assert y.shape == (N, len(tasks), OUT)
    for i in range(len(tasks)):
        torch.testing.assert_close(y[:, i], body(x[i : i + 1])[:, 0])


@every_body
def test_rows_do_not_see_each_other(name):
    body, (x, _) = made(name), rows()
    order = torch.randperm(20)
    torch.testing.assert_close(body(x[order]), body(x)[:, order])


@every_body
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_finite(name, dropout):
    """In single precision, large inputs, a constant one."""
    body = made(name, dropout=dropout).float()
    x = rows()[0].float()
    for scale in (0.0, 1.0, 1e3):
        body.zero_grad()
        y = body(torch.cat([x[:, : IDENT.stop], x[:, IDENT.stop :] * scale], 1))
        (y**2).sum().backward()
        assert y.isfinite().all()
        assert all(p.grad.isfinite().all() for p in body.parameters())


@every_body
def test_the_last_columns_and_no_end(name):
    """`ident` as a slice with an open or a negative end."""
    x = rows()[0]
    x = torch.cat([others(x.T).T, x[:, IDENT]], 1)
    ends = [slice(DIM - K, None), slice(-K, None), slice(DIM - K, DIM)]
    y = [made(name, ident=ident)(x) for ident in ends]
    assert torch.equal(y[0], y[1])
    assert torch.equal(y[0], y[2])


@every_body
def test_dropout_draws_anew_and_the_copy_is_the_same(name):
    body, (x, _) = made(name, dropout=0.5), rows()
    assert not torch.equal(body(x), body(x))
    other = copy.deepcopy(body)
    torch.manual_seed(3)
    y = body(x)
    torch.manual_seed(3)
    assert torch.equal(other(x), y)


# One by one ---------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """The critics as single operations on all networks at once, in their order of drawing."""

    def __init__(self, n, dim, hidden, layer_norm):
        super().__init__()
        sizes = [dim, *hidden]
        self.layers = nn.ModuleList(Linears(n, i, o) for i, o in zip(sizes, hidden, strict=False))
        self.norms = nn.ModuleList(Norms(n, o) for o in hidden if layer_norm)
        self.out = Linears(n, sizes[-1], 1)

    def forward(self, x, a):
        layers = [*self.layers, self.out]
        parts = [[p.weight for p in layers], [p.bias for p in layers]]
        parts += [[p.weight for p in self.norms], [p.bias for p in self.norms]]
        return side_by_side(torch.cat((x, a), -1), parts, len(self.layers)).squeeze(-1)


@norm_or_not
def test_conditioned_is_the_critic(layer_norm):
    """And so are the critics of gcrl.nets, whatever they are built on."""
    x, a = torch.randn(30, 7), torch.randn(30, 2)
    kinds = [
        lambda: Conditioned(4, 9, 1, (16, 16), slice(3, 7), layer_norm),
        lambda: Critics(4, 9, (16, 16), layer_norm=layer_norm),
        lambda: Plain(4, 9, (16, 16), layer_norm),
    ]
    results = []
    for kind in kinds:
        torch.manual_seed(5)
        net = kind()
        drawn = [p.detach().clone() for p in net.parameters()]
        y = net(torch.cat((x, a), -1)).squeeze(-1) if isinstance(net, Conditioned) else net(x, a)
        (y**2).mean().backward()
        results.append([*drawn, y, *(p.grad for p in net.parameters()), torch.rand(3)])
    for one, other, plain in zip(*results, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, plain)


@pytest.mark.parametrize("task", range(K))
def test_other_tasks_heads_get_no_gradient(task):
    body, (x, _) = made("heads"), rows(9, [task] * 9)
    (body(x) ** 2).sum().backward()
    per_task = body.out.weight.grad.unflatten(-1, (K, OUT)).abs().sum((0, 1, 3))
    assert ((per_task > 0) == (torch.arange(K) == task)).all()
    assert (body.out.bias.grad.unflatten(-1, (K, OUT)).abs().sum((0, 1, 3)) > 0).tolist() == (per_task > 0).tolist()
    assert all((p.grad != 0).any() for p in body.trunk.parameters())


@pytest.mark.parametrize("task", range(K))
def test_other_tasks_networks_get_no_gradient(task):
    body, (x, _) = made("tied"), rows(9, [task] * 9)
    (body(x) ** 2).sum().backward()
    for p in body.parameters():
        assert ((p.grad.unflatten(0, (N, K)).abs().flatten(2).sum((0, 2)) > 0) == (torch.arange(K) == task)).all()


def test_a_trunk_of_hard_sharing_does_not_see_the_task():
    """Where the heads are alike, so are the values."""
    body, (x, _) = made("heads"), rows(1)
    with torch.no_grad():
        for p in (body.out.weight, body.out.bias):
            p.copy_(p[..., :OUT].repeat(1, 1, K))
    y = [body(torch.cat([x[:, :4], torch.eye(K)[k : k + 1].double(), x[:, 7:]], 1)) for k in range(K)]
    torch.testing.assert_close(y[0], y[1])
    torch.testing.assert_close(y[0], y[2])


def test_routes_and_gates_are_probabilities():
    x = rows()[0]
    body = made("modular", hidden=(12, 8, 8, 8))
    routes = body.routes(body.f(x), x[:, IDENT])
    assert len(routes) == 3
    for route in routes:
        assert route.shape == (N, 20, 4, 4)
        assert (route > 0).all()
        torch.testing.assert_close(route.sum(-1), torch.ones(N, 20, 4, dtype=torch.float64))
    assert (routes[0][:, 0] - routes[0][:, 1]).abs().max() > 1e-3
    gate = made("experts").weights(x[:, IDENT])
    assert gate.shape == (N, 20, 4)
    torch.testing.assert_close(gate.sum(-1), torch.ones(N, 20, dtype=torch.float64))


@pytest.mark.parametrize("name", ["modular", "experts"])
def test_one_module_is_no_choice(name):
    """With m = 1 the routes are 1 and z reaches the output as an input only."""
    body, (x, _) = made(name, m=1), rows()
    parts = {"modular": ("h", "down"), "experts": ("gate",)}[name]
    before = body(x)
    with torch.no_grad():
        for part in parts:
            for p in body.get_submodule(part).parameters():
                p.add_(1.0)
    torch.testing.assert_close(body(x), before)


@every_body
def test_every_body_tells_tasks_apart_from_the_start(name):
    """But for `tied`, whose networks start alike."""
    torch.manual_seed(0)
    body, x = BODIES[name](N, DIM, OUT, (32, 32), IDENT, True), rows(2, [0, 1])[0].float()
    x[1, :4], x[1, 7:] = x[0, :4], x[0, 7:]
    y = body(x)
    assert ((y[:, 0] - y[:, 1]).abs().max() > 1e-3) == (name != "tied")


def test_modules_need_something_to_route():
    with pytest.raises(ValueError, match="two hidden layers"):
        made("modular", hidden=(8,))


@pytest.mark.parametrize("m", [1, 2, 4, 9])
def test_narrow_modules_weigh_what_one_wide_layer_does(m):
    widths = narrow((240, 240, 120), m)
    assert m * widths[0] * widths[1] == pytest.approx(240 * 240, rel=0.02)
    assert m * widths[1] * widths[2] == pytest.approx(240 * 120, rel=0.02)
    assert narrow((1, 2), 100) == [1, 1]


@pytest.mark.parametrize("some", [NONE, *SOME, slice(1, 1), slice(2, 1), slice(None, None, 2)], ids=str)
@pytest.mark.parametrize("m", [1, 4])
def test_spread(some, m):
    assert torch.equal(torch.arange(3 * m)[spread(some, 3, m)], torch.arange(3 * m).view(3, m)[some].flatten())


# The tie ------------------------------------------------------------------------------------------------------------


def test_networks_start_alike_and_the_tie_is_zero():
    torch.manual_seed(0)
    body = Tied(2, DIM, OUT, (8, 8), IDENT, True)
    assert body.tie().item() == pytest.approx(0, abs=1e-9)
    for p in body.parameters():
        assert (p.unflatten(0, (2, K)) == p.unflatten(0, (2, K))[:, :1]).all()
    assert not torch.equal(body.nets.out.weight[0], body.nets.out.weight[K])


def test_the_tie_in_closed_form():
    """By a loop, with its gradient; for two numbers, half the square of their distance."""
    body = made("tied")
    wanted = 0.0
    for p in body.parameters():
        for k in range(N):
            own = p[k * K : (k + 1) * K]
            wanted += sum(((theta - own.mean(0)) ** 2).sum() for theta in own)
    torch.testing.assert_close(body.tie(), wanted)
    body.tie().backward()
    p = body.nets.out.weight
    apart = p.unflatten(0, (N, K))
    torch.testing.assert_close(p.grad, 2 * (apart - apart.mean(1, keepdim=True)).flatten(0, 1).detach())
    two = BODIES["tied"](1, 3, 1, (), slice(0, 2))
    with torch.no_grad():
        two.nets.out.weight.copy_(torch.tensor([1.0, 4.0])[:, None, None])
    assert two.tie().item() == pytest.approx(9 / 2)


def test_ties_of_a_module():
    one, two = made("tied"), made("tied", hidden=(6,))
    assert tie_of(nn.ModuleDict({"a": one, "b": nn.Sequential(two)})).item() == pytest.approx(
        (one.tie() + two.tie()).item()
    )
    assert tie_of(one) == one.tie()
    assert tie_of(nn.ModuleList([made("heads"), nn.Linear(2, 2)])) is None


def test_a_strong_tie_makes_one_network_of_all():
    torch.manual_seed(0)
    body, (x, task) = made("tied"), rows(60)
    y = task.double()[None, :, None].expand(N, -1, OUT)
    adam = torch.optim.Adam(body.parameters(), lr=3e-2)
    for _ in range(100):
        adam.zero_grad()
        (((body(x) - y) ** 2).mean() + 100 * tie_of(body)).backward()
        adam.step()
    assert body.tie() < 1e-2
