"""The losses of agents that model the data's policy, against their equations in NumPy. Long: six agents."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from gcrl.agents import AGENTS
from gcrl.agents.algaedice import Rooted
from gcrl.agents.bear import discrepancy
from gcrl.agents.bestof import soft_clipped
from gcrl.behaviour import normal_kl
from gcrl.encoder import Spec
from relabel.batch import State
from tasks.task import InputError
from tests.problems import SPEC, Wheel, batch, settings_of, wheel
from tests.test_agents import explored, shown
from tests.test_losses import array, bounded, data, drawn, encoded, gaussian, perceptron, values
from tests.test_offline import right, trained

BEST_OF = ("bcq", "bear")
BRAC = ("brac-p", "brac-v")
MODELS = {"bcq": "vae", "bear": "vae", "brac-p": "behaviour", "brac-v": "behaviour"}
"""what each has learned of the data's policy"""


def made(name, **wanted):
    """A new agent in double precision: normalisers fed; every parameter moved, those of the target too."""
    torch.manual_seed(0)
    agent = AGENTS[name](SPEC, settings_of(name, **wanted))
    agent.encode.observe(torch.randn(100, 4) * 3 + 1, torch.randn(100, 2) - 2)
    with torch.no_grad():
        for p in agent.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return agent.double()


def noise(*shape):
    return array(torch.randn(*shape, dtype=torch.float64))


# BC -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_std", [-0.7, 0.4, 9.0])
def test_cloning_is_the_likelihood_of_a_normal(log_std):
    """A deviation beyond e^2 counts as e^2."""
    agent, b = made("bc"), data()
    with torch.no_grad():
        agent.actor.log_std.fill_(log_std)
    mean = np.tanh(perceptron(agent.actor.net, encoded(agent, b.obs, b.goal)))
    std = np.exp(min(log_std, 2.0))
    density = np.exp(-((array(b.action) - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))
    assert agent.actor_loss(b).item() == pytest.approx(-np.log(density).sum(1).mean(), rel=1e-6)


def test_cloning_goes_the_way_that_most_of_the_data_go():
    assert right(trained("bc")) == 0


# What BCQ and BEAR share --------------------------------------------------------------------------------------------


def decoded(vae, x, z):
    return np.tanh(perceptron(vae.decoder, np.concatenate([x, z], 1)))


def imagined(vae, x, draws):
    """An action of the data's model for each draw from N(0, 1)."""
    return decoded(vae, x, np.clip(draws, -0.5, 0.5))


def soft(q, weight):
    return weight * q.min(0) + (1 - weight) * q.max(0)


@pytest.mark.parametrize("name", BEST_OF)
@pytest.mark.parametrize("kl", [0.0, 0.5, 2.0])
def test_the_autoencoders_loss(name, kl):
    agent, b = made(name, kl=kl), data()
    x, a = encoded(agent, b.obs, b.goal), array(b.action)
    mean, log_std = np.split(perceptron(agent.vae.encoder, np.concatenate([x, a], 1)), 2, axis=1)
    torch.manual_seed(1)
    again = decoded(agent.vae, x, mean + np.exp(log_std) * noise(50, 4))
    divergence = -0.5 * (1 + 2 * log_std - mean**2 - np.exp(2 * log_std))
    torch.manual_seed(1)
    wanted = ((a - again) ** 2).mean() + kl * divergence.mean()
    assert agent.vae_loss(b).item() == pytest.approx(wanted, rel=1e-6)


def candidates_of(agent, x, draws):
    """(B, X), (n, B, width) -> (n, B, A), one draw after the other."""
    if isinstance(agent, AGENTS["bcq"]):
        return np.array([shifted(agent, x, imagined(agent.vae, x, one)) for one in draws])
    mean, log_std = np.split(perceptron(agent.actor.net, x), 2, axis=1)
    return np.array([np.tanh(mean + np.exp(log_std) * one) for one in draws])


def shifted(agent, x, a):
    way = np.tanh(perceptron(agent.actor.net, np.concatenate([x, a], 1)))
    return np.clip(a + agent.settings.phi * way, -1, 1)


WIDTH = {"bcq": 4, "bear": 2}


@pytest.mark.parametrize("name", BEST_OF)
@pytest.mark.parametrize("changes", [{}, {"pessimism": 1.0}, {"samples": 3}, {"clip_target": False}], ids=str)
def test_the_target_is_the_best_candidate_by_a_soft_minimum(name, changes):
    agent, b = made(name, **changes), data()
    s = agent.settings
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    torch.manual_seed(1)
    a_ = candidates_of(agent, x_, noise(s.samples, 50, WIDTH[name]))
    v_ = np.max([soft(values(agent.target, x_, one), s.pessimism) for one in a_], 0)
    y = array(b.reward) + array(b.discount) * v_
    y = bounded(y, b) if s.clip_target else y
    wanted = ((values(agent.critic, x, array(b.action)) - y) ** 2).mean(1).sum()
    torch.manual_seed(1)
    assert agent.critic_loss(b).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", BEST_OF)
def test_acting_is_the_best_of_the_same_candidates_for_all(name):
    """By the first head; exploring gives one of them at random."""
    agent, b = made(name, choices=7), data()
    x = encoded(agent, b.obs, b.goal)
    a = candidates_of(agent, x, np.repeat(array(agent.draws)[:, None], 50, 1))
    best = np.argmax([values(agent.critic, x, one)[0] for one in a], 0)
    np.testing.assert_allclose(array(agent.act(b.state)[0]), a[best, np.arange(50)], atol=1e-6)
    assert len(set(best.tolist())) > 1
    torch.manual_seed(2)
    wanted = candidates_of(agent, x, noise(1, 50, WIDTH[name]))[0]
    torch.manual_seed(2)
    np.testing.assert_allclose(array(agent.act(b.state, explore=True)[0]), wanted, atol=1e-6)


def test_the_soft_minimum_by_hand():
    q = torch.tensor([[1.0, 2.0], [5.0, -2.0]])
    torch.testing.assert_close(soft_clipped(q, 0.75), torch.tensor([2.0, -1.0]))
    assert soft_clipped(q, 1.0).tolist() == [1.0, -2.0]


@pytest.mark.parametrize("name", MODELS)
def test_every_step_moves_its_own_network(name):
    """The target moves too, by following; nothing learns from a loss that is another's."""
    agent, model = made(name, delay=2), MODELS[name]
    losses = {model: getattr(agent, f"{model}_loss"), "critic": agent.critic_loss, "actor": agent.actor_loss}
    for part, loss in losses.items():
        before = {key: x.clone() for key, x in agent.state_dict().items()}
        agent.descend(part, getattr(agent, part), data(), lambda b, _, loss=loss: loss(b))
        assert {key.split(".")[0] for key, x in agent.state_dict().items() if not torch.equal(x, before[key])} == {part}
    torch.manual_seed(0)
    before = {key: x.clone() for key, x in agent.state_dict().items()}
    metrics = agent.update(data())  # by the delay, not the actor's
    changed = {key.split(".")[0] for key, x in agent.state_dict().items() if not torch.equal(x, before[key])}
    assert changed == {model, "critic", "target", "_extra_state"}
    assert set(metrics) == {f"{model}_loss", "critic_loss"}


# BCQ ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.05, 2.0])
def test_actor_loss_of_bcq(phi):
    agent, b = made("bcq", phi=phi), data()
    x = encoded(agent, b.obs, b.goal)
    torch.manual_seed(1)
    a = shifted(agent, x, imagined(agent.vae, x, noise(50, 4)))
    torch.manual_seed(1)
    assert agent.actor_loss(b).item() == pytest.approx(-values(agent.critic, x, a)[0].mean(), rel=1e-6)


def test_an_action_is_moved_by_phi_at_most_and_without_it_is_the_models_own():
    b = data()
    for phi in (0.0, 0.05):
        agent = made("bcq", phi=phi, choices=20)
        with torch.no_grad():
            x = agent.encode(b.state)
            model = torch.stack([agent.vae(x, draw.expand(50, -1)) for draw in agent.draws])
        away = (agent.act(b.state)[0] - model).abs().amax(-1).amin(0)  # from the nearest of them
        assert away.max() <= phi + 1e-12
        assert (away.max() > 1e-12) == (phi > 0)


@pytest.mark.parametrize("name", ["bcq", "bear"])
def test_acting_is_a_function_of_the_state_whatever_the_critics_drop(name):
    agent, b = made(name, dropout=0.5), data()
    assert torch.equal(*(agent.act(b.state)[0] for _ in range(2)))
    assert not torch.equal(*(agent.value(b) for _ in range(2)))


def test_a_code_stays_where_the_datas_codes_are():
    agent = made("bcq")
    x = torch.randn(30, agent.encode.dim, dtype=torch.float64)
    far, edge = (agent.vae(x, torch.full((30, 4), z, dtype=torch.float64)) for z in (9.0, 0.5))
    assert torch.equal(far, edge)
    assert not torch.equal(edge, agent.vae(x, torch.full((30, 4), 0.4, dtype=torch.float64)))


def test_the_autoencoder_gives_back_what_the_data_do():
    """Actions that a state decides come back after some steps; at the start they do not."""
    torch.manual_seed(0)
    agent = AGENTS["bcq"](SPEC, settings_of("bcq", lr=3e-3))
    b = batch(200)
    b = b._replace(action=torch.sign(b.obs[:, :2]) * 0.6)

    def missed():
        return (agent.act(b.state, explore=True)[0] - b.action).abs().mean()

    before = missed()
    for _ in range(200):
        agent.descend("vae", agent.vae, b, lambda b, _: agent.vae_loss(b))
    assert before > 0.5
    assert missed() < 0.2


# BEAR ---------------------------------------------------------------------------------------------------------------


def double_sum(one, two, kernel, sigma):
    """MMD by the definition, pair by pair: (n, A), (m, A)."""

    def k(p, q):
        apart = sum(abs(u - v) if kernel == "laplacian" else (u - v) ** 2 for u, v in zip(p, q, strict=True))
        return np.exp(-apart / (2 * sigma))

    def mean(one, two):
        return np.mean([k(p, q) for p in one for q in two])

    return np.sqrt(max(mean(one, one) + mean(two, two) - 2 * mean(one, two), 0) + 1e-6)


kernels = pytest.mark.parametrize(("kernel", "sigma"), [("laplacian", 10.0), ("gaussian", 20.0), ("gaussian", 0.3)])


@kernels
@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 7), (1, 1)])
def test_the_discrepancy_is_the_double_sum(kernel, sigma, n, m):
    torch.manual_seed(0)
    one, two = torch.randn(n, 6, 2).double(), torch.randn(m, 6, 2).double() + 1
    found = discrepancy(one, two, kernel, sigma)
    wanted = [double_sum(array(one[:, i]), array(two[:, i]), kernel, sigma) for i in range(6)]
    np.testing.assert_allclose(array(found), wanted, rtol=1e-9)


@kernels
def test_the_discrepancy_is_nothing_for_the_same_draws_and_grows_with_the_distance(kernel, sigma):
    torch.manual_seed(0)
    one = torch.randn(5, 8, 2).double()
    same = discrepancy(one, one[[2, 0, 1, 4, 3]], kernel, sigma)
    assert same.max() <= 1.001e-3  # the root of what keeps its slope finite
    apart = torch.stack([discrepancy(one, one + d, kernel, sigma) for d in (0.0, 0.1, 0.3, 1.0, 3.0)])
    assert (apart.diff(dim=0) > 0).all()


def test_the_discrepancy_of_two_points_by_hand():
    """sqrt(2 - 2 exp(-d / 20)) for d = 0.4"""
    found = discrepancy(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.4, dtype=torch.float64), "laplacian", 10.0)
    assert found.item() == pytest.approx(np.sqrt(2 - 2 * np.exp(-0.02) + 1e-6), rel=1e-9)


def test_the_slope_of_the_discrepancy_is_finite_everywhere():
    same = torch.zeros(4, 3, 2, requires_grad=True)
    discrepancy(torch.zeros(4, 3, 2), same, "laplacian", 10.0).sum().backward()
    assert same.grad.isfinite().all()


@pytest.mark.parametrize("changes", [{}, {"kernel": "gaussian", "sigma": 20.0}, {"match": 4, "critics": 3}], ids=str)
def test_actor_loss_of_bear(changes):
    agent, b = made("bear", **changes), data()
    s, x = agent.settings, encoded(agent, b.obs, b.goal)
    torch.manual_seed(1)
    draws = noise(s.match, 50, 6)
    a = candidates_of(agent, x, draws[..., :2])
    model = np.array([imagined(agent.vae, x, one) for one in draws[..., 2:]])
    apart = [double_sum(model[:, i], a[:, i], s.kernel, s.sigma) for i in range(50)]
    multiplier = np.exp(array(agent.log_multiplier))[array(b.task)]
    wanted = (multiplier * apart - values(agent.critic, x, a[0]).min(0)).mean()
    torch.manual_seed(1)
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


def test_multiplier_loss_and_its_slope():
    agent, b = made("bear"), data()
    distance = torch.rand(50, dtype=torch.float64, requires_grad=True)
    loss = agent.multiplier_loss(b, distance)
    over, task = array(distance) - 0.05, array(b.task)
    assert loss.item() == pytest.approx(-(array(agent.log_multiplier)[task] * over).mean())
    loss.backward()
    assert distance.grad is None
    assert agent.log_multiplier.grad.tolist() == pytest.approx([-(over * (task == k)).sum() / 50 for k in (0, 1)])


@pytest.mark.parametrize(("threshold", "rises"), [(0.0, True), (10.0, False)])
def test_the_multiplier_rises_above_the_threshold_and_falls_below_it(threshold, rises):
    """For the task that the batch is of, and for that one alone."""
    agent = made("bear", threshold=threshold, multiplier_lr=0.01)
    before = agent.log_multiplier.detach().clone()
    for _ in range(5):
        agent.update(data(task=torch.ones(50, dtype=torch.int64)))
    still, moved = (agent.log_multiplier - before).tolist()
    assert still == 0
    assert moved == pytest.approx(0.05 if rises else -0.05, abs=1e-3)


def test_the_multiplier_keeps_within_its_range():
    for start, threshold in ((9.999, -1.0), (-4.999, 10.0)):
        agent = made("bear", threshold=threshold, multiplier_lr=1.0)
        with torch.no_grad():
            agent.log_multiplier.fill_(start)
        agent.update(data())
        assert agent.log_multiplier.tolist() == [round(start), round(start)]


def test_a_kernel_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="--kernel round: choose from laplacian, gaussian"):
        made("bear", kernel="round")


# BRAC ---------------------------------------------------------------------------------------------------------------


def test_the_divergence_of_normals():
    """ln 2 + (1 + 1) / 8 - 1 / 2 by hand, and torch's own in general."""
    one, two = ((torch.full((1, 1), m), torch.full((1, 1), s).log()) for m, s in ((0.0, 1.0), (1.0, 2.0)))
    assert normal_kl(*one, *two).item() == pytest.approx(np.log(2) + 2 / 8 - 0.5)
    assert normal_kl(*two, *two).item() == 0
    torch.manual_seed(0)
    mean, log_std, other, other_log_std = torch.randn(4, 30, 3).double()
    wanted = kl_divergence(Normal(mean, log_std.exp()), Normal(other, other_log_std.exp())).sum(-1)
    torch.testing.assert_close(normal_kl(mean, log_std, other, other_log_std), wanted)


def test_the_divergence_is_that_of_the_squashed_actions():
    """By summing pi log(pi / beta) over a fine grid of actions."""
    a = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1, None]
    pi, beta = gaussian([0.3], [-0.5]), gaussian([-0.4], [0.1])
    x = torch.zeros(len(a), 1)
    logp, logq = pi.log_prob(x, a), beta.log_prob(x, a)
    summed = torch.trapezoid(logp.exp() * (logp - logq), a[:, 0])
    exact = normal_kl(*pi.normal(x[:1]), *beta.normal(x[:1]))
    assert summed.item() == pytest.approx(exact.item(), rel=1e-4)


def both(agent, x):
    """Mean and deviation of the policy and of the data's, (B, A) each."""
    out = []
    for net, low in ((agent.actor, -20), (agent.behaviour, -5)):
        mean, log_std = np.split(perceptron(net.net, x), 2, axis=1)
        out += [mean, np.exp(np.clip(log_std, low, 2))]
    return out


def divergence(agent, x):
    mean, std, other, other_std = both(agent, x)
    return (np.log(other_std / std) + (std**2 + (mean - other) ** 2) / (2 * other_std**2) - 0.5).sum(1)


def test_behaviour_loss():
    """And a deviation has its floor: data that repeat one action have a finite density."""
    agent, b = made("brac-p"), data()
    *_, mean, std = both(agent, encoded(agent, b.obs, b.goal))
    u = np.arctanh(array(b.action))
    logp = (-((u - mean) ** 2) / (2 * std**2) - np.log(std * np.sqrt(2 * np.pi) * (1 - np.tanh(u) ** 2))).sum(1)
    assert agent.behaviour_loss(b).item() == pytest.approx(-logp.mean(), rel=1e-5)
    with torch.no_grad():
        agent.behaviour.net.body.out.bias[..., 2:] -= 100
    assert (agent.behaviour.normal(agent.encode(b.state))[1] == -5).all()


@pytest.mark.parametrize("name", BRAC)
@pytest.mark.parametrize("changes", [{}, {"penalty": 2.0}, {"critics": 4, "subset": 2}], ids=str)
def test_losses_of_brac(name, changes):
    agent, b = made(name, **changes), data()
    s, x, x_ = agent.settings, encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    torch.manual_seed(1)
    mean, std, *_ = both(agent, x_)
    q_ = values(agent.target, x_, np.tanh(mean + std * noise(50, 2)))
    q_ = q_[torch.randperm(s.critics)[: s.subset].numpy()] if s.subset < s.critics else q_
    v_ = q_.min(0) - (s.penalty * divergence(agent, x_) if name == "brac-v" else 0)
    y = array(b.reward) + array(b.discount) * v_
    wanted = ((values(agent.critic, x, array(b.action)) - y) ** 2).mean(1).sum()
    torch.manual_seed(1)
    assert agent.critic_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    torch.manual_seed(2)
    mean, std, *_ = both(agent, x)
    q = values(agent.critic, x, np.tanh(mean + std * noise(50, 2))).min(0)
    torch.manual_seed(2)
    assert agent.actor_loss(b).item() == pytest.approx((s.penalty * divergence(agent, x) - q).mean(), rel=1e-6)


@pytest.mark.parametrize("name", BRAC)
def test_without_a_penalty_it_is_sac_without_a_temperature(name):
    """Both losses, on the same weights and draws; with a penalty neither is."""
    b = data()
    for penalty, same in ((0.0, True), (1.0, False)):
        agent, base = made(name, penalty=penalty), made("sac", layer_norm=False)
        for part in ("actor", "critic", "target", "encode"):
            getattr(base, part).load_state_dict(getattr(agent, part).state_dict())
        with torch.no_grad():
            base.log_alpha.fill_(-100.0)
        for loss in ("critic_loss", "actor_loss"):
            torch.manual_seed(1)
            found = getattr(agent, loss)(b).item()
            torch.manual_seed(1)
            equal = found == pytest.approx(getattr(base, loss)(b).item(), abs=1e-6)
            assert equal == (same or (name == "brac-p" and loss == "critic_loss"))


# AlgaeDICE ----------------------------------------------------------------------------------------------------------


def rooted(**changes):
    b, first = data(**changes), batch(50, seed=1, dtype=torch.float64)
    return Rooted(*b, *first.state, torch.full((50,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("changes", [{}, {"mix": 1.0}, {"alpha": 3.0}, {"critics": 3}, {"mix": 0.0}], ids=str)
def test_losses_of_the_dual(changes):
    agent, b = made("algaedice", **changes), rooted()
    s, a = agent.settings, array(b.action)
    states = ((b.obs, b.goal), (b.next_obs, b.goal), (b.first_obs, b.first_goal))
    x, x_, x0 = (encoded(agent, *state) for state in states)
    torch.manual_seed(1)
    draws = np.split(noise(100, 2), 2)
    a_, a0 = (drawn(agent.actor, at, one)[0] for at, one in zip((x_, x0), draws, strict=True))
    ahead = s.mix * values(agent.critic, x_, a_) + (1 - s.mix) * values(agent.target, x_, a_).min(0)
    residual = array(b.reward) + array(b.discount) * ahead - values(agent.critic, x, a)
    first = s.alpha * 0.1 * values(agent.critic, x0, a0)
    torch.manual_seed(1)
    assert agent.critic_loss(b).item() == pytest.approx((residual**2 / 2 + first).mean(1).sum(), rel=1e-6)
    torch.manual_seed(1)
    wanted = -(np.maximum(residual, 0) * residual + first).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


NEXT = np.array([[0, 1], [0, 1]])
"""(S, A): where each of two actions leads from each of two states."""
COUNT = np.array([[4, 1], [2, 3]])
"""(S, A): how often the data do it, of ten."""
START, REWARD, DISCOUNT = np.array([7, 3]), np.array([[0.0, -1.0], [1.0, 2.0]]), 0.8


class Seen(torch.nn.Module):
    def forward(self, state):
        return state.obs


class Table(torch.nn.Module):
    """nu (S, A) of one-hot states and the actions -1 and 1."""

    def __init__(self, nu):
        super().__init__()
        self.nu = nu

    def forward(self, x, action):
        return self.nu[x.argmax(-1), (action[:, 0] > 0).long()][None]


class Fixed(torch.nn.Module):
    """A policy that takes action pi[s] of the two."""

    def __init__(self, pi):
        super().__init__()
        self.pi = torch.tensor(pi)

    def sample(self, x):
        return 2.0 * self.pi[x.argmax(-1)][:, None] - 1, None


def tabular():
    """Ten transitions and ten initial states."""
    state, action = (np.repeat(i.ravel(), COUNT.ravel()) for i in np.indices((2, 2)))
    one_hot = torch.eye(2, dtype=torch.float64)
    obs, next_obs, first = one_hot[state], one_hot[NEXT[state, action]], one_hot[np.repeat(np.arange(2), START)]
    reward, discount = torch.tensor(REWARD[state, action]), torch.full((10,), DISCOUNT).double()
    none, task = torch.zeros(10, 0), torch.zeros(10, dtype=torch.int64)
    act = torch.tensor(2.0 * action - 1)[:, None]
    return Rooted(obs, act, reward, discount, next_obs, none, task, first, none, task, 1 - discount)


def visited(pi):
    """(S, A): how often the policy is where, 1 in all: d = (1 - gamma) start + gamma what leads there, solved."""
    along = np.eye(2)[NEXT[np.arange(2), pi]]
    d = np.linalg.solve(np.eye(2) - DISCOUNT * along.T, (1 - DISCOUNT) * START / 10)
    return d[:, None] * np.eye(2)[list(pi)]


@pytest.mark.parametrize("alpha", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("pi", list(itertools.product((0, 1), repeat=2)), ids=str)
def test_the_minimum_of_the_dual_is_the_return_less_the_divergence(pi, alpha):
    """And its residual is alpha times how often the policy is there, over how often the data are.

    The loss is a parabola in the four numbers of nu, so one step of Newton is at its minimum.
    """
    agent, b = made("algaedice", mix=1.0, alpha=alpha), tabular()
    agent.encode, agent.actor = Seen(), Fixed(pi)

    def loss(nu):
        agent.critic = agent.target = Table(nu)
        return agent.critic_loss(b)

    nu = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(nu), nu)
    curve = torch.autograd.functional.hessian(loss, nu.detach()).reshape(4, 4)
    nu = nu.detach() - torch.linalg.solve(curve, slope.reshape(4)).reshape(2, 2)
    d, ratio = visited(pi), visited(pi) / (COUNT / 10)
    wanted = (d * REWARD).sum() - alpha * (COUNT / 10 * ratio**2 / 2).sum()
    assert d.sum() == pytest.approx(1)
    assert loss(nu).item() / alpha == pytest.approx(wanted)
    at = b.obs.argmax(-1), (b.action[:, 0] > 0).long()
    np.testing.assert_allclose(array(agent.dual(b)[0][0]), alpha * ratio[at], atol=1e-9)


def test_the_policy_of_the_dual_is_the_best_and_its_value_the_formulas():
    """On the wheel, where every step goes on and an action costs its square distance from the best."""
    task, gamma = wheel(False, False), 0.7
    replay = explored([task], "none", 800, gamma)
    torch.manual_seed(0)
    wanted = {"alpha": 0.02, "lr": 5e-3, "tau": 0.1, "hidden": (64,), "layer_norm": True}
    agent = AGENTS["algaedice"](Spec.of([task], gamma), settings_of("algaedice", **wanted))
    shown(agent, replay)
    rng = np.random.default_rng(0)
    for _ in range(500):
        agent.update(agent.draw(replay, rng))
    state = State(torch.eye(Wheel.N), torch.zeros(Wheel.N, 0), torch.zeros(Wheel.N, dtype=torch.int64))
    action = agent.act(state)[0]
    torch.testing.assert_close(action, torch.full_like(action, Wheel.BEST), atol=0.15, rtol=0)
    for a in (-0.8, Wheel.BEST, 0.9):
        nu = agent.critic(agent.encode(state), torch.full_like(action, a))
        formula = torch.from_numpy(Wheel.q(task, gamma, a)).float().expand_as(nu)
        torch.testing.assert_close(nu, formula, atol=0.25, rtol=0)


@pytest.mark.parametrize("n_step", [1, 3])
def test_initial_states_count_one_minus_gamma(n_step):
    replay = explored([wheel(True, False)], "future", 80, 0.7, n_step)
    agent = AGENTS["algaedice"](Spec.of([wheel(True, False)], 0.7), settings_of("algaedice"))
    b = agent.draw(replay, np.random.default_rng(0))
    torch.testing.assert_close(b.share, torch.full((64,), 1 - 0.7**n_step))
    assert b.discount.min() == pytest.approx(0.7**n_step)


def test_each_step_of_the_dual_moves_its_own_network():
    agent = AGENTS["algaedice"](SPEC, settings_of("algaedice", delay=2))
    b = Rooted(*(x.float() if x.is_floating_point() else x for x in rooted()))
    for moved in ({"critic", "target"}, {"critic", "target", "actor"}):
        before = {key: x.clone() for key, x in agent.state_dict().items()}
        agent.update(b)
        changed = {key.split(".")[0] for key, x in agent.state_dict().items() if not torch.equal(x, before[key])}
        assert changed == moved | {"_extra_state"}
