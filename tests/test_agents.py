"""One tester for all agents, under every setting they have, and known answers. Long: there is to be only one."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import safetensors.torch
import torch

from gcrl.agents import AGENTS
from gcrl.agents.agent import Agent, load_optimizer_state, optimizer_state
from gcrl.agents.discrete import Discrete
from gcrl.agents.offpolicy import OffPolicy
from gcrl.bodies import BODIES
from gcrl.collect import Collector
from gcrl.compiled import tensors
from gcrl.encoder import Spec
from gcrl.evaluate import Evaluator
from gcrl.limits import check_numbers
from gcrl.settings import Settings
from gcrl.train import Training
from relabel.batch import State
from relabel.goals import parse
from relabel.replay import Replay
from relabel.share import parse as sharing
from tests.problems import MOVES, PLAIN, POINT, SPEC, Wheel, batch, by_choice, fit_for, plan, settings_of, wheel

GAMMA = 0.9
MOVED = dataclasses.replace(POINT, name="test-moved", reward_range=(-2.0, 1.0))
PROBLEMS = {"goals": (POINT,), "no goals": (PLAIN,), "two tasks": (POINT, MOVED), "three steps": (POINT,)}
VARIANTS = {
    "default": {},
    "redq": {"critics": 5, "subset": 2},
    "droq": {"dropout": 0.01},
    "no layer_norm": {"layer_norm": False},
    "delay": {"delay": 3},
    "no clip": {"clip_target": False},
    "hard": {"period": 2, "tau": 1.0},
    "squared": {"huber": 0.0},
    "anew": {"period": 3, "tau": 1.0, "anew": True},
}


def has(agent, changes):
    """Can the agent be set so."""
    return set(changes) <= {field.name for field in dataclasses.fields(AGENTS[agent].Settings)}


def problem_for(name, problem):
    """Its tasks, by choice for an agent that chooses."""
    return tuple(fit_for(name, task) for task in PROBLEMS[problem])


every_agent = pytest.mark.parametrize("name", AGENTS)
every_problem = pytest.mark.parametrize("problem", PROBLEMS)
SLOW = pytest.mark.slow
ONLINE = [name for name, kind in AGENTS.items() if not kind.offline]
every_setting = pytest.mark.parametrize(
    ("name", "variant"),
    [(a, v) for a in AGENTS for v, changes in VARIANTS.items() if has(a, changes) and (a in ONLINE or v == "default")],
)
off_policy = pytest.mark.parametrize("name", [name for name in ONLINE if issubclass(AGENTS[name], OffPolicy)])
DISCRETE = [name for name, kind in AGENTS.items() if issubclass(kind, Discrete)]
every_choice = pytest.mark.parametrize("name", DISCRETE)
with_target = pytest.mark.parametrize("name", [*(a for a in ONLINE if issubclass(AGENTS[a], OffPolicy)), *DISCRETE])


def explored(tasks, relabel, steps, gamma=GAMMA, n_step=1):
    """A replay of uniform actions, `steps` of them."""
    replay, collector = Replay(tasks, 10_000, parse(relabel), gamma, n_step), Collector(tasks, 4, 0)
    rng = np.random.default_rng(0)
    for _ in range(steps // 4):
        for k, episode in collector.step(rng.uniform(-1, 1, (4, tasks[0].action_dim)).astype(np.float32)):
            replay.stores[k].add(episode)
    return replay


@functools.cache
def replay_of(problem, discrete=False):
    tasks = [by_choice(task) if discrete else task for task in PROBLEMS[problem]]
    return explored(tasks, "future" if tasks[0].goal_dim else "none", 400, n_step=3 if problem == "three steps" else 1)


def made(name, tasks=PROBLEMS["goals"], gamma=GAMMA, **wanted):
    """A new agent, by torch's generator as it stands."""
    return AGENTS[name](Spec.of(tasks, gamma), settings_of(name, **wanted))


def shown(agent, replay):
    """The agent, its normalisers fed with all that the replay holds."""
    for store in replay.stores:
        kept = store.state()
        goals = np.concatenate([store.task.goal_of(kept["observation"]), kept["desired"]])
        agent.encode.observe(torch.from_numpy(kept["observation"]), torch.from_numpy(goals))
    return agent


def fresh(name, problem="goals", seed=0, **wanted):
    if AGENTS[name].needs_goals and not PROBLEMS[problem][0].goal_dim:
        pytest.skip("it needs goals")
    torch.manual_seed(seed)
    return shown(made(name, problem_for(name, problem), **wanted), replay_of(problem, AGENTS[name].discrete))


def data_of(agent, problem="goals", count=1, seed=0):
    """What the agent draws for `count` updates."""
    rng = np.random.default_rng(seed)
    return [agent.draw(replay_of(problem, agent.discrete), rng) for _ in range(count)]


def moved(data, device):
    """The same on a device."""
    return data.to(device) if isinstance(data, torch.Tensor) else type(data)(*(moved(x, device) for x in data))


def states(problem, size, seed=0):
    b = replay_of(problem).sample(np.random.default_rng(seed), size)
    return b.state


@every_agent
def test_its_flags_are_its_own_and_it_may_be_what_it_is(name):
    """A flag of the run under the same name would be checked, and compared on resume, in its place."""
    own = AGENTS[name].Settings()
    check_numbers(own)
    assert not {x.name for x in dataclasses.fields(own)} & {x.name for x in dataclasses.fields(Settings)}


def copied(module):
    return {name: x.clone() for name, x in module.state_dict().items()}


def equal(a, b):
    """The same names and the same tensors, to the bit."""
    assert set(a) == set(b)
    return all(torch.equal(a[name], b[name]) for name in a)


def everything(agent):
    """All that a checkpoint keeps of an agent, copied."""
    kept = {f"module.{k}": x for k, x in agent.state_dict().items()} | optimizer_state(agent)
    return {name: x.detach().clone() for name, x in kept.items()}


# act ------------------------------------------------------------------------------------------------------------------


@every_agent
@every_problem
@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("explore", [False, True])
def test_actions_have_the_shape_and_the_range(name, problem, size, explore):
    agent = fresh(name, problem)
    state = states(problem, size)
    far = state._replace(obs=state.obs * 1e6)
    for x in (state, far):
        for _ in range(20):
            action, _ = agent.act(x, explore=explore)
            assert action.shape == (size, agent.spec.action_dim)
            assert action.dtype == torch.float32
            assert not action.requires_grad
            assert (action.abs() <= 1).all()


@every_agent
@every_problem
def test_without_exploring_nothing_is_random(name, problem):
    """The same actions again, from no generator; and a state's action does not depend on its company."""
    agent, state = fresh(name, problem), states(problem, 40 if AGENTS[name].discrete else 9)
    torch.manual_seed(3)
    first, _ = agent.act(state)
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(3).get_state())
    torch.manual_seed(4)
    assert torch.equal(agent.act(state)[0], first)
    assert len(first.unique(dim=0)) > 1
    for i in range(9):
        alone = State(*(x[i : i + 1] for x in state))
        torch.testing.assert_close(agent.act(alone)[0][0], first[i], atol=1e-6, rtol=1e-5)


@every_agent
def test_exploring_is_random_and_the_seed_decides(name):
    agent, state = fresh(name), states("goals", 9)
    torch.manual_seed(3)
    first, second = agent.act(state, explore=True)[0], agent.act(state, explore=True)[0]
    differs = (first != second).any(1)
    assert differs.any() if agent.discrete else differs.all()
    torch.manual_seed(3)
    assert torch.equal(agent.act(state, explore=True)[0], first)


@every_agent
def test_acting_changes_no_agent(name):
    agent, state = fresh(name), states("goals", 9)
    before = everything(agent)
    for explore in (False, True):
        carry = None
        for _ in range(3):
            _, carry = agent.act(state, carry, explore)
    assert equal(everything(agent), before)
    assert all(p.grad is None for p in agent.parameters())


NOISY = [name for name in AGENTS if has(name, ("noise", "random"))]


@pytest.mark.parametrize("name", NOISY)
def test_exploration_noise_is_what_the_settings_say(name):
    state = State(*(x.expand(20_000, *x.shape[1:]) for x in states("goals", 1)))
    quiet = fresh(name, noise=0.0, random=0.0)
    mean = quiet.act(state)[0]
    assert mean.abs().max() < 0.5  # the noise below stays off the border
    assert torch.equal(quiet.act(state, explore=True)[0], mean)
    off = fresh(name, noise=0.1, random=0.0).act(state, explore=True)[0] - mean
    torch.testing.assert_close(off.mean(0), torch.zeros(2), atol=0.004, rtol=0)
    torch.testing.assert_close(off.T.cov(), 0.01 * torch.eye(2), atol=0.0005, rtol=0)
    uniform = fresh(name, noise=0.0, random=1.0).act(state, explore=True)[0]
    torch.testing.assert_close(uniform.mean(0), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(uniform.T.cov(), torch.eye(2) / 3, atol=0.01, rtol=0)
    assert uniform.abs().max() > 0.99
    some = (fresh(name, noise=0.0, random=0.3).act(state, explore=True)[0] != mean).float()
    assert (some[:, 0] == some[:, 1]).all()  # a whole action is uniform or none of it
    assert some.mean() == pytest.approx(0.3, abs=0.015)


@every_choice
def test_of_choices_one_is_made_and_epsilon_of_them_at_random(name):
    """One number of each action is 1, the others are -1; the share falls to epsilon with the updates."""
    agent = fresh(name, epsilon=0.3, anneal=4)
    state = State(*(x.expand(20_000, *x.shape[1:]) for x in states("goals", 1)))
    greedy = agent.act(state)[0]
    assert set(greedy.unique().tolist()) == {-1.0, 1.0} and ((greedy == 1).sum(1) == 1).all()
    torch.testing.assert_close(greedy.argmax(1), agent.values(agent.encode(state)).argmax(1))
    for updates, share in ((0, 1.0), (2, 0.65), (4, 0.3), (9, 0.3)):
        agent.updates = updates
        counts = (agent.act(state, explore=True)[0] == 1).float().mean(0)
        wanted = share / 5 + (1 - share) * (greedy[0] == 1)
        torch.testing.assert_close(counts, wanted, atol=0.015, rtol=0)
    assert fresh(name, anneal=0, epsilon=0.25).share() == 0.25


@every_choice
@pytest.mark.parametrize("rule", ["cds:50", "hipi"])
def test_an_agent_that_chooses_says_what_a_task_should_share(name, rule):
    tasks = [by_choice(task) for task in PROBLEMS["two tasks"]]
    replay = Replay(tasks, 10_000, parse("future"), GAMMA, sharing=sharing(rule))
    for k, store in enumerate(replay.stores):
        store.load(replay_of("two tasks", discrete=True).stores[k].state())
    b = fresh(name, "two tasks", batch=64).draw(replay, np.random.default_rng(0))
    assert len(b.obs) == 64
    assert replay.flow[0].sum() == 64 and (replay.flow[0] > 0).all()  # and each task has rows of both


@pytest.mark.parametrize("weights", BODIES)
@pytest.mark.parametrize("name", ["dqn", "dueling-dqn", "rem-dqn"])
def test_tasks_share_the_network_of_an_agent_that_chooses(name, weights):
    """Whichever way they share the weights: a task's rows change its own choices, under surgery too."""
    torch.manual_seed(0)
    spec = dataclasses.replace(SPEC, action_dim=3, task_id="onehot+goal")
    agent, b = AGENTS[name](spec, settings_of(name, weights=weights, surgery="pcgrad", heads=4)), batch(30, spec=spec)
    before = agent.values(agent.encode(b.state))
    for _ in range(3):
        assert agent.update(b)["critic_loss"].isfinite()
    after = agent.values(agent.encode(b.state))
    assert after.shape == (30, 3)
    assert ((after - before).abs() > 1e-4).float().mean() > 0.9


@pytest.mark.parametrize("weights", BODIES)
@pytest.mark.parametrize("name", [name for name in AGENTS if has(name, {"surgery"})])
def test_each_tasks_gradient_can_be_had_of_whatever_it_draws(name, weights):
    torch.manual_seed(0)
    spec = Spec.of(problem_for(name, "two tasks"), GAMMA, "onehot+goal")
    agent = AGENTS[name](spec, settings_of(name, weights=weights, surgery="pcgrad", heads=4, samples=2, choices=2))
    (data,) = data_of(agent, "two tasks")
    assert all(x.isfinite().all() for x in agent.update(data).values())


@every_choice
def test_a_policy_that_has_diverged_does_not_choose(name):
    """Or nobody would notice: a choice is a number whatever its values are."""
    agent, state = fresh(name), states("goals", 3)
    with torch.no_grad():
        for p in (*agent.critic.parameters(), *agent.target.parameters()):
            p.fill_(torch.nan)
    for explore in (False, True):
        assert agent.act(state, explore=explore)[0].isnan().all()


@pytest.mark.parametrize("name", [name for name, kind in AGENTS.items() if not kind.discrete])
def test_a_continuous_agent_works_where_actions_are_choices(name):
    """Its vector's greatest number is what counts: nothing but sizes tells it."""
    torch.manual_seed(0)
    replay = replay_of("goals", discrete=True)
    agent = shown(made(name, (by_choice(POINT),)), replay)
    for _ in range(2):
        assert all(x.isfinite() for x in agent.update(agent.draw(replay, np.random.default_rng(0))).values())
    assert agent.act(states("goals", 7), explore=True)[0].shape == (7, len(MOVES))


# update ---------------------------------------------------------------------------------------------------------------


@every_setting
@every_problem
def test_updates_stay_finite_and_count_themselves(name, variant, problem):
    agent = fresh(name, problem, **VARIANTS[variant])
    seen = {}
    for i, data in enumerate(data_of(agent, problem, 4), 1):
        metrics = agent.update(data)
        assert metrics
        for key, value in metrics.items():
            assert isinstance(value, torch.Tensor), key
            assert value.shape == (), key
            assert not value.requires_grad, key
            assert value.isfinite(), key
        seen |= metrics
        assert agent.updates == i
    assert any(key.endswith("_loss") for key in seen)
    assert all(x.isfinite().all() for x in everything(agent).values())
    assert int(agent.get_extra_state()) == 4


@every_setting
def test_the_seed_decides_all(name, variant):
    def run(seed):
        agent = fresh(name, seed=seed, **VARIANTS[variant])
        metrics = [agent.update(data) for data in data_of(agent, count=4, seed=seed)]
        action = agent.act(states("goals", 5), explore=True)[0]
        return everything(agent) | {f"{i}.{k}": x for i, m in enumerate(metrics) for k, x in m.items()} | {"a": action}

    one = run(1)
    assert equal(one, run(1))
    assert not equal(one, run(2))


@every_setting
def test_a_loaded_agent_goes_on_to_the_bit(name, variant):
    """Saved after five updates (between two of a delayed actor), through a file's bytes, into quite another agent."""
    agent = fresh(name, **VARIANTS[variant])
    for data in data_of(agent, count=5):
        agent.update(data)
    files = [safetensors.torch.save(tensors) for tensors in (dict(agent.state_dict()), optimizer_state(agent))]
    other = fresh(name, seed=9, **VARIANTS[variant])
    other.encode.observe(torch.randn(50, 2), torch.randn(50, 2))
    weights, slots = map(safetensors.torch.load, files)
    other.load_state_dict(weights)
    load_optimizer_state(other, slots)
    assert equal(everything(other), everything(agent))
    results = []
    for one in (agent, other):
        torch.manual_seed(5)
        metrics = [one.update(data) for data in data_of(one, count=4, seed=2)]
        results.append({f"{i}.{k}": x for i, m in enumerate(metrics) for k, x in m.items()})
        results[-1]["action"] = one.act(states("goals", 5), explore=True)[0]
        results[-1] |= everything(one)
    assert equal(*results)


@every_agent
def test_an_agent_saved_before_its_first_update_loads(name):
    agent, other = fresh(name), fresh(name, seed=1)
    assert optimizer_state(agent) == {}
    other.load_state_dict(agent.state_dict())
    load_optimizer_state(other, {})
    runs = []
    for one in (agent, other):
        torch.manual_seed(0)
        one.update(data_of(one)[0])
        runs.append(everything(one))
    assert equal(*runs)


@every_agent
def test_a_loaded_agent_shares_no_memory_with_the_one_that_was_saved(name):
    one, other = fresh(name), fresh(name, seed=1)
    for data in data_of(one, count=3):
        one.update(data)
    other.load_state_dict(one.state_dict())
    load_optimizer_state(other, optimizer_state(one))
    before = everything(one)
    assert equal(everything(other), before)
    other.update(data_of(other)[0])
    assert equal(everything(one), before)


@every_setting
def test_the_loss_falls_on_one_batch(name, variant):
    wanted = {**VARIANTS[variant], "lr": 3e-3}
    agent = fresh(name, **wanted | ({"period": 100} if variant == "anew" else {}))  # within one regression
    (data,) = data_of(agent)
    losses = [agent.update(data) for _ in range(40)]
    key = "critic_loss" if "critic_loss" in losses[0] else next(k for k in losses[0] if k.endswith("_loss"))
    values = [float(m[key]) for m in losses if key in m]
    # what imitates can only come so near to actions that were drawn at random, and a density has a constant
    share = 0.5 if name in ONLINE else 0.003 if AGENTS[name].needs_goals else 0.05
    assert np.mean(values[-5:]) < values[0] - share * abs(values[0]), values


@off_policy
def test_the_actors_loss_falls_under_a_fixed_critic(name):
    agent = fresh(name, lr=0.01, alpha=1e-3, entropy=-100.0)
    (data,) = data_of(agent)
    values = [float(agent.improve(data)["actor_loss"]) for _ in range(40)]
    assert np.mean(values[-5:]) < np.mean(values[:3]) - 0.05, values


@every_agent
def test_an_update_leaves_its_data_alone(name):
    agent = fresh(name, "two tasks")
    (data,) = data_of(agent, "two tasks")
    before = [x.clone() for x in tensors(data)]
    agent.update(data)
    assert all(x.equal(y) or (x.isnan() & y.isnan()).all() for x, y in zip(tensors(data), before, strict=True))


@with_target
@pytest.mark.parametrize("tau", [0.0, 0.005, 0.7, 1.0])
def test_the_target_moves_only_by_following(name, tau):
    agent = fresh(name, tau=tau, delay=2, period=1)
    for data in data_of(agent, count=3):
        old = copied(agent.target)
        agent.update(data)
        new, online = copied(agent.target), copied(agent.critic)
        for key, x in new.items():
            torch.testing.assert_close(x, old[key] + tau * (online[key] - old[key]), rtol=1e-5, atol=1e-7)
        if tau in (0, 1):
            assert equal(new, online if tau else old)
        assert not equal(old, online)
    assert all(p.grad is None and not p.requires_grad for p in agent.target.parameters())


@off_policy
@pytest.mark.parametrize("variant", ["default", "droq"])
def test_no_gradient_leaks(name, variant):
    """The critic's step moves the critic alone and the actor's the actor alone; neither gives the other a gradient."""
    agent = fresh(name, tau=0.0, delay=2, **VARIANTS[variant])
    (data,) = data_of(agent)
    before = {part: copied(getattr(agent, part)) for part in ("actor", "critic", "target", "encode")}
    agent.update(data)  # by the delay, the critic's step only
    changed = {part for part in before if not equal(before[part], copied(getattr(agent, part)))}
    assert changed == {"critic"}
    assert all(p.grad is not None for p in agent.critic.parameters())
    assert all(p.grad is None for p in agent.actor.parameters())
    for p in agent.parameters():
        p.grad = None
    before = {part: copied(getattr(agent, part)) for part in before}
    agent.improve(data)
    changed = {part for part in before if not equal(before[part], copied(getattr(agent, part)))}
    assert changed == {"actor"}
    assert all(p.grad is not None for p in agent.actor.parameters())
    assert all(p.grad is None for p in agent.critic.parameters())


@every_choice
def test_the_target_is_not_learned(name):
    agent = fresh(name, period=100)
    (data,) = data_of(agent)
    before = {part: copied(getattr(agent, part)) for part in ("critic", "target", "encode")}
    agent.update(data)
    assert {part for part in before if not equal(before[part], copied(getattr(agent, part)))} == {"critic"}
    assert all(p.grad is not None for p in agent.critic.parameters())
    assert all(p.grad is None and not p.requires_grad for p in agent.target.parameters())


@every_choice
def test_the_target_moves_once_in_a_period(name):
    agent, moved = fresh(name, period=3), []
    for data in data_of(agent, count=7):
        before = copied(agent.target)
        agent.update(data)
        moved.append(not equal(before, copied(agent.target)))
    assert moved == [False, False, True, False, False, True, False]


@off_policy
@pytest.mark.parametrize("delay", [1, 2, 3])
def test_the_actor_moves_with_every_delayed_update(name, delay):
    agent, moved = fresh(name, delay=delay), []
    for data in data_of(agent, count=6):
        before = copied(agent.actor)
        metrics = agent.update(data)
        moved.append(not equal(before, copied(agent.actor)))
        assert ("actor_loss" in metrics) == moved[-1]
    assert moved == [(i + 1) % delay == 0 for i in range(6)]


@pytest.mark.parametrize("name", [name for name in AGENTS if has(name, ("alpha", "entropy"))])
def test_every_task_has_a_temperature_of_its_own(name):
    """A batch of one task leaves the other's alone; too little entropy warms, too much cools."""
    for entropy, warmer in ((5.0, True), (-5.0, False)):
        agent = fresh(name, "two tasks", alpha=0.2, entropy=entropy, lr=0.01)
        assert agent.log_alpha.exp().tolist() == pytest.approx([0.2, 0.2])
        (data,) = data_of(agent, "two tasks")
        agent.update(data._replace(task=torch.ones_like(data.task)))
        cold, changed = agent.log_alpha.exp().tolist()
        assert cold == pytest.approx(0.2, abs=1e-7)
        assert (changed > 0.201) if warmer else (changed < 0.199)


@every_agent
def test_draw_asks_for_the_batch_that_the_settings_say(name):
    agent = fresh(name, batch=12)
    for problem, steps in (("goals", 1), ("three steps", 3)):
        (b,) = data_of(agent, problem)
        assert {len(x) for x in tensors(b)} == {12}
        if name in ONLINE:
            assert b.discount.min() == pytest.approx(GAMMA**steps)  # the least: nothing ends here


@every_agent
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine or this build of torch has no CUDA")
def test_an_agent_works_on_a_gpu(name):
    """Moved there after its making, optimizers and all: what draws no noise is as here, the rest runs and is saved."""
    wanted = {"target_noise": 0.0, "delay": 1}
    here, there = fresh(name, **wanted), fresh(name, **wanted).to("cuda")
    (b,) = data_of(here)
    b_ = moved(b, "cuda")
    state = states("goals", 9)
    state_ = State(*(x.to("cuda") for x in state))
    torch.testing.assert_close(there.act(state_)[0].cpu(), here.act(state)[0], atol=1e-5, rtol=1e-4)
    before = torch.get_rng_state()
    one, two = here.update(b), there.update(b_)
    if torch.equal(torch.get_rng_state(), before):  # others draw, and each device has its own noise
        torch.testing.assert_close({k: x.cpu() for k, x in two.items()}, one, atol=1e-4, rtol=1e-3)
    for _ in range(3):
        assert all(x.isfinite() for x in there.update(b_).values())
    for explore in (False, True):
        action, _ = there.act(state_, explore=explore)
        assert action.device == b_.obs.device
        assert (action.abs() <= 1).all()
    assert {x.device.type for name, x in there.state_dict().items() if name != "_extra_state"} == {"cuda"}
    files = [safetensors.torch.save(tensors) for tensors in (dict(there.state_dict()), optimizer_state(there))]
    again = made(name, **wanted).to("cuda")
    weights, slots = map(safetensors.torch.load, files)
    again.load_state_dict(weights)
    load_optimizer_state(again, slots)
    assert equal(everything(again), everything(there))
    for agent in (again, there):
        torch.cuda.manual_seed(0)
        agent.update(b_)
    torch.testing.assert_close(everything(again), everything(there))


def test_the_contract_that_an_agent_must_fill():
    agent = Agent(SPEC, None)
    for call in (lambda: agent.draw(None, None), lambda: agent.update(None), lambda: agent.act(batch().state)):
        with pytest.raises(TypeError, match="Agent does not say"):
            call()


# known answers --------------------------------------------------------------------------------------------------------

EXACT = {"alpha": 1e-3, "entropy": -100.0, "target_noise": 0.0, "action_penalty": 0.3, "delay": 1}
"""Under these an agent's value is the task's own: no entropy and no noise. The penalty, which keeps tanh from its flat
ends while the critic is still wrong, costs less than 0.01."""
Q_GAMMA = 0.7


@off_policy
@pytest.mark.parametrize("ends", [True, False], ids=["ends", "goes on"])
@pytest.mark.parametrize(
    ("goals", "n_step"), [(True, 1), (True, 3), (False, 1)], ids=["goals", "goals, three steps", "no goals"]
)
def test_the_learned_value_is_the_formulas(name, goals, n_step, ends):
    """Every place, every goal (relabelled), good and bad actions. Episodes are cut at 7 steps, which must not count.

    Three steps only where no action matters: the two after the first are the explorer's.
    """
    task = wheel(goals, ends)
    replay = explored([task], "future" if goals else "none", 800, Q_GAMMA, n_step)
    torch.manual_seed(0)
    agent = shown(made(name, (task,), Q_GAMMA, **EXACT, lr=5e-3, tau=0.1, hidden=(64,)), replay)
    rng = np.random.default_rng(0)
    for _ in range(300 if n_step == 1 else 200):
        agent.update(agent.draw(replay, rng))
    x = agent.encode(everywhere(goals))
    for action in (-0.8, Wheel.BEST, 0.9):
        q = agent.critic(x, torch.full((len(x), 1), action))
        formula = torch.from_numpy(Wheel.q(task, Q_GAMMA, action)).float().reshape(-1).expand_as(q)
        torch.testing.assert_close(q, formula, atol=0.2, rtol=0)


def everywhere(goals):
    """All places of the wheel, with all goals."""
    place = torch.eye(Wheel.N)
    goal = place.repeat(Wheel.N, 1) if goals else torch.zeros(Wheel.N, 0)
    obs = place.repeat_interleave(Wheel.N, 0) if goals else place
    return State(obs, goal, torch.zeros(len(obs), dtype=torch.int64))


@every_choice
@pytest.mark.parametrize(
    ("goals", "n_step", "ends"), [(True, 3, True), (False, 1, False)], ids=["goals, three steps", "no goals, goes on"]
)
def test_the_learned_value_of_a_choice_is_the_formulas(name, goals, n_step, ends):
    """As above, of three actions to choose from; it acts by the best of them, where they differ."""
    task, actions = wheel(goals, ends), (-0.8, Wheel.BEST, 0.9)
    chosen = by_choice(task, tuple((a,) for a in actions))
    replay = explored([chosen], "future" if goals else "none", 800, Q_GAMMA, n_step)
    torch.manual_seed(0)
    wanted = {"lr": 5e-3, "hidden": (64,), "heads": 10} | ({"period": 15} if name == "fqi" else {"tau": 0.1})
    agent = shown(made(name, (chosen,), Q_GAMMA, **wanted), replay)
    rng = np.random.default_rng(0)
    for _ in range(240):
        agent.update(agent.draw(replay, rng))
    state = everywhere(goals)
    for i, action in enumerate(actions):
        q = agent.values(agent.encode(state))[:, i]
        formula = torch.from_numpy(Wheel.q(task, Q_GAMMA, action)).float().reshape(-1)
        torch.testing.assert_close(q, formula, atol=0.2, rtol=0)
    if not goals:
        assert (agent.act(state)[0].argmax(1) == 1).all()


def test_the_formulas_are_the_values():
    """By value iteration, in which nothing is cut."""
    n, gamma = Wheel.N, 0.7
    for goals in (True, False):
        for ends in (True, False):
            q = np.zeros((n, n))  # of place and goal; without goals the goal is place 0
            for _ in range(200):
                there = np.eye(n)[(np.arange(n) + 1) % n] == 1
                reward = there - 1.0 if goals else 1.0 * there
                q = reward + gamma * np.roll(q, -1, 0) * ~(there & ends)
            formula = Wheel.q(wheel(goals, ends), gamma, Wheel.BEST)
            np.testing.assert_allclose(formula, q if goals else q[:, 0], atol=1e-9)


def learned(name, steps, seed):
    """(success before, success after) of training by the main job's own loop."""
    wanted = {"lr": 3e-3, "alpha": 0.1, "heads": 20, "anneal": 300}
    wanted |= {"period": 50} if name == "fqi" else {"tau": 0.05}
    task = fit_for(name, POINT)
    training = Training(plan(task, name, wanted, gamma=0.9, lanes=4, seed=seed, relabel="future"))
    evaluator = Evaluator(task, 25)
    before = evaluator(training.agent, 50).success
    while training.steps < steps:
        training.step()
    return before, evaluator(training.agent, 100).success


@pytest.mark.parametrize("name", NOISY)
def test_training_explores(name):
    """Uniform actions while it warms up, and from the agent with its noise afterwards."""
    for share, spread in ((0.0, 0.0), (1.0, 1 / 3)):
        training = Training(plan(POINT, name, {"noise": 0.0, "random": share}, warmup=400, lanes=4, utd=0.0))
        for _ in range(200):
            training.step()
        action = torch.from_numpy(training.replay.stores[0].state()["action"])
        state = training.replay.sample(np.random.default_rng(0), 1).state
        assert action.shape == (800, 2)
        assert action[:400].var() == pytest.approx(1 / 3, abs=0.03)
        chosen = action[400:] - training.agent.act(state)[0] * (share == 0)
        assert chosen.var() == pytest.approx(spread, abs=0.03)


@pytest.mark.parametrize(("epsilon", "spread"), [(0.0, 0.0), (1.0, 0.2)])
def test_training_tries_every_choice(epsilon, spread):
    """All alike while it warms up; afterwards the best and, by epsilon, any. What was chosen is what is kept."""
    task = by_choice(POINT)
    training = Training(plan(task, "dqn", {"epsilon": epsilon, "anneal": 0}, warmup=800, lanes=4, utd=0.0))
    for _ in range(400):
        training.step()
    kept = training.replay.stores[0].state()
    action = torch.from_numpy(kept["action"])
    assert ((action == 1).sum(1) == 1).all() and ((action == -1).sum(1) == len(MOVES) - 1).all()
    np.testing.assert_allclose((action[:800] == 1).float().mean(0), 0.2, atol=0.05)
    share = (action[800:] == 1).float().mean(0)
    assert float(share.min()) == pytest.approx(spread, abs=0.05)


@pytest.mark.parametrize("name", ["td3", "double-dqn"])
def test_one_of_each_kind_learns_to_reach(name):
    before, after = learned(name, 1200 if AGENTS[name].discrete else 800, 0)
    assert before < 0.5
    assert after >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ONLINE)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_agent_learns_to_reach(name, seed):
    before, after = learned(name, 2000 if AGENTS[name].discrete else 1200, seed)
    assert before < 0.5
    assert after >= (0.9 if AGENTS[name].discrete else 0.95)  # by steps of one length it passes by some goals


@pytest.mark.parametrize("name", [name for name in AGENTS if has(name, ("reset_every",))])
def test_networks_begin_anew_every_so_many_updates(name):
    """Actor, critics and their optimizers; the normaliser and the temperature stay. Off by default."""
    agent = fresh(name, reset_every=3)
    (b,) = data_of(agent)
    seen = agent.encode.obs.mean.clone()
    learned = []
    for _ in range(3):
        agent.update(b)
        learned.append([p.detach().clone() for p in (*agent.actor.parameters(), *agent.critic.parameters())])
    steps = [
        float((after - before).norm() / before.norm())
        for k in (1, 2)
        for before, after in [[torch.cat([p.flatten() for p in learned[k + i]]) for i in (-1, 0)]]
    ]
    assert steps[0] < 0.3 < 0.7 < steps[1]
    assert all(torch.equal(p, q) for p, q in zip(agent.critic.parameters(), agent.target.parameters(), strict=True))
    begun = [agent.optimizers[part].state.values() for part in ("actor", "critic")]
    assert not any(x.any() for states in begun for state in states for x in state.values())
    assert torch.equal(agent.encode.obs.mean, seen)
    agent.update(b)
    assert {int(slot["step"]) for slot in agent.optimizers["critic"].state.values()} == {1}
    assert settings_of(name).reset_every == 0
