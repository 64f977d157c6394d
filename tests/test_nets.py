"""Networks against the same networks written another way. Long: one file a module."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gcrl.agents import AGENTS
from gcrl.encoder import Encoder, Normaliser, Spec, value_bounds
from gcrl.layers import ROWS, Linears, Norms, dropped, mask_of, side_by_side, stack
from gcrl.nets import Actor, Critics, GaussianActor
from gcrl.train import Training
from tests.problems import PLAIN, POINT, SPEC, batch, plan, settings_of


def numbers(n, d, seed=0):
    """(N, D), each column with a mean and a deviation of its own."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.arange(1, d + 1) + 10 * np.arange(d)


# Critics ------------------------------------------------------------------------------------------------------------


def moved(module):
    """The module, no two heads of its norms alike."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def separate(critics, k, layer_norm):
    """Head k as torch would have written it."""
    layers: list[nn.Module] = []
    for i, layer in enumerate([*critics.body.trunk.layers, critics.body.out]):
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[2])
        with torch.no_grad():
            linear.weight.copy_(layer.weight[k].T)
            linear.bias.copy_(layer.bias[k, 0])
        layers.append(linear)
        if layer is critics.body.out:
            break
        if layer_norm:
            norm = nn.LayerNorm(layer.weight.shape[2])
            with torch.no_grad():
                norm.weight.copy_(critics.body.trunk.norms[i].weight[k, 0])
                norm.bias.copy_(critics.body.trunk.norms[i].bias[k, 0])
            layers.append(norm)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize(("n", "hidden"), [(1, (8,)), (2, (16, 16)), (5, (7, 12, 3))])
def test_heads_are_separate_networks(n, hidden, layer_norm):
    """Values and gradients."""
    torch.manual_seed(0)
    critics = moved(Critics(n, 6, hidden, layer_norm))
    x, a = torch.randn(30, 4), torch.randn(30, 2, requires_grad=True)
    q = critics(x, a)
    assert q.shape == (n, 30)
    nets = [separate(critics, k, layer_norm) for k in range(n)]
    a_ = a.detach().requires_grad_()
    q_ = torch.stack([net(torch.cat([x, a_], 1))[:, 0] for net in nets])
    torch.testing.assert_close(q, q_, rtol=1e-4, atol=1e-5)
    (q**2).sum().backward()
    (q_**2).sum().backward()
    torch.testing.assert_close(a.grad, a_.grad, rtol=1e-3, atol=1e-4)
    for k, net in enumerate(nets):
        grad = critics.body.trunk.layers[0].weight.grad[k]
        torch.testing.assert_close(grad, net[0].weight.grad.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("heads", [slice(0, 1), slice(1, 3), slice(3, None), slice(None), slice(0, 5, 2)], ids=str)
def test_some_heads_are_the_same_heads(heads, layer_norm):
    critics = moved(Critics(5, 6, (8, 8), layer_norm))
    x, a = torch.randn(10, 4), torch.randn(10, 2)
    torch.testing.assert_close(critics(x, a, heads), critics(x, a)[heads], rtol=1e-5, atol=1e-6)
    critics(x, a, heads).sum().backward()
    used = torch.zeros(5, dtype=torch.bool)
    used[heads] = True
    assert torch.equal(critics.body.out.weight.grad.abs().sum((1, 2)) > 0, used)


@pytest.mark.parametrize(("i", "o"), [(3, 400), (50, 20)])
def test_every_head_starts_as_a_linear_layer_of_its_own(i, o):
    """Uniform within 1 / sqrt(inputs), weight and bias, as nn.Linear; no two heads alike."""
    torch.manual_seed(0)
    ours, theirs, bound = Linears(40, i, o), [nn.Linear(i, o) for _ in range(40)], 1 / math.sqrt(i)
    pairs = [
        (ours.weight, torch.stack([layer.weight.T for layer in theirs])),
        (ours.bias, torch.stack([layer.bias[None] for layer in theirs])),
    ]
    for p, known in pairs:
        assert p.shape == known.shape
        for x in (p, known):
            assert x.abs().max() <= bound
            assert x.abs().max() > 0.97 * bound
            assert x.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert x.mean().item() == pytest.approx(0, abs=0.05 * bound)
        assert len(p.detach().flatten(1).unique(dim=0)) == 40
    norms = Norms(3, o)
    assert (norms.weight == 1).all()
    assert (norms.bias == 0).all()


def test_layers_take_shared_and_separate_inputs():
    """(B, i) for all heads, or (n, B, i)."""
    layer, x = Linears(3, 4, 2), torch.randn(5, 4)
    torch.testing.assert_close(layer(x, slice(None)), layer(x.expand(3, 5, 4), slice(None)))
    apart = torch.randn(3, 5, 4)
    for k in range(3):
        wanted = apart[k] @ layer.weight[k] + layer.bias[k]
        torch.testing.assert_close(layer(apart, slice(None))[k], wanted)


def test_dropout_draws_anew_at_every_pass_and_for_every_head():
    torch.manual_seed(0)
    critics = Critics(2, 6, (200,), layer_norm=False, dropout=0.3)
    quiet = Critics(2, 6, (200,), layer_norm=False)
    quiet.load_state_dict(critics.state_dict())
    with torch.no_grad():
        for net in (critics, quiet):
            for p in net.parameters():
                p.copy_(p[:1].expand_as(p))  # both heads alike: only the masks differ
        x, a = torch.randn(1, 4).expand(4000, 4), torch.randn(1, 2).expand(4000, 2)
        first, second, known = critics(x, a), critics(x, a), quiet(x, a)
    assert (first != second).float().mean() > 0.99
    assert (first[0] != first[1]).float().mean() > 0.99
    assert (known == known[0, 0]).all()
    torch.testing.assert_close(first.mean(), known[0, 0], atol=0.01, rtol=0)  # ReLU after the mask: still unbiased


def test_dropout_comes_before_the_norm_and_not_before_the_value():
    """As in DroQ: linear, dropout, norm, ReLU. The masks are the same after the same seed."""
    torch.manual_seed(0)
    critics = moved(Critics(3, 6, (40, 36), layer_norm=True, dropout=0.5))
    x, a = torch.randn(10, 4), torch.randn(10, 2)
    torch.manual_seed(1)
    q = critics(x, a)
    torch.manual_seed(1)
    out = critics.body.out
    for k in range(3):
        h = torch.cat([x, a], 1)
        for layer, norm in zip(critics.body.trunk.layers, critics.body.trunk.norms, strict=True):
            h = dropped(h @ layer.weight[k] + layer.bias[k], 0.5)
            h = F.relu(F.layer_norm(h, h.shape[-1:]) * norm.weight[k] + norm.bias[k])
        torch.testing.assert_close(q[k], (h @ out.weight[k] + out.bias[k])[..., 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_mask_leaves_out_its_share_and_keeps_the_mean(share, dtype):
    """Each number by itself: any two of those that one draw of 64 bits decides agree by chance, at any distance."""
    torch.manual_seed(0)
    h = torch.zeros(1001, 403, dtype=dtype)
    mask, n = mask_of(h, share), h.numel()
    assert mask.shape == h.shape and mask.dtype == dtype and len(mask.unique()) == 2
    assert mask.max().item() == pytest.approx(1 / (1 - share), rel=1e-3)
    out = (mask == 0).flatten().double()
    assert out.mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5 + 2**-16)
    half = -(-n // 4) * 2
    for apart in (1, 2, 3, 4, 8, 403, half - 1, half, half + 1):
        together = ((out[:-apart] - share) * (out[apart:] - share)).mean().item()
        assert abs(together) < 5 * share * (1 - share) / n**0.5


def test_nothing_is_dropped_where_nothing_shall_be():
    h = torch.randn(5, 3)
    assert dropped(h, 0.0) is h


@pytest.mark.parametrize("norms", [0, 2])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_stack_by_hand_is_differentiated_as_its_operations_are(norms, last, shared):
    """Dropout included: one network draws the same masks both ways. Weights that need no gradient get none."""
    torch.manual_seed(0)
    layers = [Linears(1, 5, 40), Linears(1, 40, 50), Linears(1, 50, 2)][: 2 + last]
    gains = [Norms(1, 40), Norms(1, 50)][:norms]
    for module in (*layers, *gains):
        moved(module).double()
    parts = [
        [p.weight for p in group] if k % 2 == 0 else [p.bias for p in group]
        for k, group in enumerate((layers, layers, gains, gains))
    ]
    x = torch.randn((9, 5) if shared else (1, 9, 5), dtype=torch.float64, requires_grad=True)
    inputs = [x, *(p for part in parts for p in part)]
    found = []
    for f in (
        lambda: stack(x, layers[:2], gains, layers[2] if last else None, 0.4),
        lambda: side_by_side(x, parts, 2, 0.4),
    ):
        torch.manual_seed(1)
        y = f()
        found.append([y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    for p in inputs[1:]:
        p.requires_grad_(False)
    stack(x, layers[:2], gains, layers[2] if last else None).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in inputs[1:])


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rows", [0, 5, 2 * ROWS + 3])
def test_without_a_gradient_the_answers_are_the_same(norms, shared, rows):
    """Row by row, whatever the pieces, and with nothing kept."""
    torch.manual_seed(0)
    n, layers, out = 3, [Linears(3, 4, 8), Linears(3, 8, 6)], Linears(3, 6, 2)
    gains = [Norms(n, 8), Norms(n, 6)] if norms else []
    x = torch.randn(*(() if shared else (n,)), rows, 4)
    before = x.clone()
    for last in (out, None):
        wanted = stack(x, layers, gains, last)
        with torch.no_grad():
            found = stack(x, layers, gains, last)
        assert wanted.requires_grad and not found.requires_grad
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-6)
    assert (x == before).all()


def test_a_stack_can_be_differentiated_once_only():
    x = torch.randn(3, 4, requires_grad=True)
    (slope,) = torch.autograd.grad((Linears(2, 4, 3)(x) ** 2).sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


# Actors -------------------------------------------------------------------------------------------------------------


def test_actors_squash():
    torch.manual_seed(0)
    x = torch.randn(20, 4) * 10
    actor, gaussian = Actor(4, 3, (8, 8)), GaussianActor(4, 3, (8, 8))
    torch.testing.assert_close(actor(x), torch.tanh(actor.net(x)))
    torch.testing.assert_close(gaussian(x), torch.tanh(gaussian.net(x)[:, :3]))
    a, logp = gaussian.sample(x)
    assert a.shape == (20, 3)
    assert logp.shape == (20,)
    draws = torch.stack([gaussian.sample(x)[0] for _ in range(4000)])
    torch.testing.assert_close(draws.median(0).values, gaussian(x), atol=0.2, rtol=0)  # tanh keeps the median


# The normaliser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_statistics_are_numpys_whatever_the_chunks(seed):
    rng = np.random.default_rng(seed)
    x = numbers(200, 3, seed) * 10.0 ** rng.integers(-1, 4) + 1000.0 * (seed % 2)
    cuts = np.sort(rng.choice(np.arange(1, 200), rng.integers(0, 20), replace=False))
    if seed == 0:
        cuts = np.arange(1, 200)  # one by one
    normaliser = Normaliser(3)
    for chunk in np.split(x, cuts):
        normaliser.observe(torch.from_numpy(chunk))
    np.testing.assert_allclose(normaliser.mean, x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(normaliser.var, x.var(0), rtol=1e-9)
    assert normaliser.count == 200
    wanted = (x - x.mean(0)) / np.maximum(x.std(0), 0.01)
    assert abs(wanted).max() < 5
    given = torch.from_numpy(x.astype(np.float32))
    np.testing.assert_allclose(normaliser(given), wanted, atol=2e-4, rtol=1e-4)


def test_statistics_of_float32_are_kept_in_float64():
    """A position of 1000 m with millimetres that matter, in a million rows."""
    rng = np.random.default_rng(0)
    x = (1000 + rng.normal(0, 0.05, (100_000, 1))).astype(np.float32)
    normaliser = Normaliser(1)
    for chunk in np.split(x, 100):
        normaliser.observe(torch.from_numpy(chunk))
    assert normaliser.mean.item() == pytest.approx(x.astype(float).mean(), rel=1e-9)
    assert normaliser.var.item() == pytest.approx(x.astype(float).var(), rel=1e-6)


def test_before_the_first_data_nothing_changes_but_the_clip():
    normaliser = Normaliser(2)
    x = torch.tensor([[0.5, -2.0], [7.0, -9.0]])
    assert normaliser(x).tolist() == [[0.5, -2.0], [5.0, -5.0]]


@pytest.mark.parametrize("clip", [1.0, 5.0])
def test_outputs_are_clipped(clip):
    normaliser = Normaliser(1, clip=clip)
    x = numbers(1000, 1)
    normaliser.observe(torch.from_numpy(x))
    far = np.linspace(-20, 20, 81)[:, None]
    got = normaliser(torch.from_numpy(far).float()).numpy()
    np.testing.assert_allclose(got, np.clip((far - x.mean()) / x.std(), -clip, clip), atol=1e-5)
    assert got.min() == -clip
    assert got.max() == clip


@pytest.mark.parametrize("floor", [0.01, 0.5])
def test_a_column_that_hardly_moves_is_divided_by_the_floor(floor):
    normaliser = Normaliser(2, floor=floor)
    x = np.stack([np.full(100, 3.0), 4 + 0.001 * np.arange(100) / 100], 1)
    normaliser.observe(torch.from_numpy(x))
    got = normaliser(torch.tensor([[3.0 + floor, 4.0 + 2 * floor]]))
    wanted = [[1.0, (4 + 2 * floor - x[:, 1].mean()) / floor]]
    np.testing.assert_allclose(got, wanted, rtol=1e-3)


def test_a_saved_normaliser_is_the_same_after_loading():
    """shift and scale are not saved: they come back from what is, and in the encoder and the agent as well."""
    normaliser, x = Normaliser(3), torch.from_numpy(numbers(50, 3))
    normaliser.observe(x)
    state = normaliser.state_dict()
    assert set(state) == {"mean", "var", "count"}
    other = Normaliser(3)
    other.observe(7 * x + 1)
    other.load_state_dict(state)
    assert torch.equal(other(x), normaliser(x))
    for one in (normaliser, other):
        one.observe(x * 2)
    assert torch.equal(other(x), normaliser(x))
    for name in AGENTS:
        one, two = (AGENTS[name](SPEC, settings_of(name)) for _ in "ab")
        one.encode.observe(torch.randn(100, 4) * 9 + 3, torch.randn(50, 2) * 5)
        two.load_state_dict(one.state_dict())
        assert torch.equal(one.encode(batch().state), two.encode(batch().state))


def test_no_goal_needs_no_statistics_and_no_warning():
    normaliser = Normaliser(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normaliser.observe(torch.zeros(5, 0))
    assert normaliser(torch.zeros(3, 0)).shape == (3, 0)
    spec = Spec.of([PLAIN], 0.9)
    encoder = Encoder(spec)
    encoder.observe(torch.randn(5, 4), torch.zeros(5, 0))
    assert encoder(batch(spec=spec).state).shape == (64, encoder.dim)


def test_the_encoder_normalises_observation_and_goal():
    encoder, b = Encoder(SPEC), batch()
    encoder.observe(b.obs * 3, b.goal - 4)
    x = encoder(b.state)
    assert x.shape == (64, encoder.dim)
    torch.testing.assert_close(x[:, :4], encoder.obs(b.obs))
    torch.testing.assert_close(x[:, 4:6], encoder.goals[0](b.goal))


def test_achieved_and_desired_goals_share_one_normaliser():
    """In training as well: its statistics are those of all goals, reached or wanted, of all finished episodes."""
    training = Training(plan(POINT, "ddpg", relabel="future", utd=0.0, warmup=10**6, lanes=3))
    for _ in range(60):
        training.step()
    kept = training.replay.stores[0].state()
    assert len(kept["length"]) == 9
    goals = np.concatenate([POINT.goal_of(kept["observation"]), kept["desired"]]).astype(float)
    encode = training.agent.encode
    np.testing.assert_allclose(encode.goals[0].mean, goals.mean(0), atol=1e-9)
    np.testing.assert_allclose(encode.goals[0].var, goals.var(0), rtol=1e-9)
    assert encode.goals[0].count == len(goals)
    np.testing.assert_allclose(encode.obs.mean, kept["observation"].astype(float).mean(0), atol=1e-9)
    np.testing.assert_allclose(encode.obs.var, kept["observation"].astype(float).var(0), rtol=1e-9)


# Bounds -------------------------------------------------------------------------------------------------------------

RANGES = [(-1.0, 0.0), (0.0, 1.0), (-2.0, 3.0), (1.0, 2.0), (-2.0, -1.0), (0.0, 0.0), (0.5, 0.5)]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("rewards", RANGES, ids=str)
def test_no_return_lies_outside_the_bounds_and_some_touch_them(rewards, gamma):
    """Of random reward sequences, of one step and of many, and of the extreme ones."""
    rng = np.random.default_rng(0)
    low, high = value_bounds(rewards, gamma)
    returns = []
    for length in (1, 2, 3, 300):
        ends = rng.choice(rewards, (200, length))
        inner = rng.uniform(*rewards, (200, length))
        extreme = np.repeat(np.array(rewards)[:, None], length, 1)
        returns.append(np.concatenate([ends, inner, extreme]) @ gamma ** np.arange(length))
    returns = np.concatenate(returns)
    assert returns.min() == pytest.approx(low, abs=1e-9)
    assert returns.max() == pytest.approx(high, abs=1e-9)


def test_bounds_of_rewards_without_bounds():
    inf = math.inf
    assert value_bounds((-inf, inf), 0.9) == (-inf, inf)
    assert value_bounds((-inf, 0.0), 0.9) == (-inf, 0)
    assert value_bounds((1.0, inf), 0.9) == (1, inf)
    assert value_bounds((-1.0, 0.0), 0.98) == (pytest.approx(-50), 0)


def test_spec_is_of_all_tasks():
    spec = Spec.of([POINT, PLAIN], 0.9)
    assert (spec.obs_dim, spec.action_dim, spec.goal_dim) == (2, 2, 2)
    assert spec.bounds == (value_bounds((-1, 0), 0.9), value_bounds((-3, 0), 0.9))
