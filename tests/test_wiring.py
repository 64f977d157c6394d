"""What the modules can do is what a run does: surgery, ties, identities, kinds of goals, whose policy is played."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gcrl import evaluate, surgery, train
from gcrl.agents import AGENTS
from gcrl.bodies import BODIES, tie_of
from gcrl.encoder import Encoder, Spec
from gcrl.evaluate import Evaluator, Outcome, Result, lanes_for
from gcrl.settings import command_line
from relabel.batch import State
from tasks.task import Episode
from tests.problems import POINT, ROW, SWAP, batch, plan_of, settings_of

THREE = (POINT, ROW, SWAP)


def spec_of(task_id="onehot+goal", **changes):
    return Spec(
        **{"obs_dim": 4, "action_dim": 2, "goal_dim": 2, "bounds": ((-9.0, 0.0),) * 3, "task_id": task_id, **changes}
    )


def made(name, task_id="onehot+goal", **wanted):
    torch.manual_seed(0)
    return AGENTS[name](spec_of(task_id), settings_of(name, **wanted))


def equal_quotas(spec):
    """A batch with as many rows of each task."""
    return batch(60, spec=spec)._replace(task=torch.arange(60) % 3)


@pytest.mark.parametrize("name", ["ddpg", "sac"])
@pytest.mark.parametrize("weights", BODIES)
def test_surgery_gets_each_tasks_gradient_of_both_losses(name, weights, monkeypatch):
    """The mean of the tasks' gradients, in place of pcgrad, is the plain step where quotas are equal."""
    seen = []

    def mean(grads):
        seen.append(grads)
        return grads.mean(0)

    monkeypatch.setitem(surgery.SURGERIES, "pcgrad", mean)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # no draw that a part of the batch would see otherwise
    plain, cut = made(name, weights=weights), made(name, weights=weights, surgery="pcgrad")
    b = equal_quotas(plain.spec)
    for agent in (plain, cut):
        agent.update(b)
    assert [len(grads) for grads in seen] == [3, 3] and all(len(set(map(float, g.norm(dim=1)))) == 3 for g in seen)
    for p, q in zip(plain.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_a_tie_pulls_the_networks_together():
    loose, tight = (made("td3", weights="tied", tie=tie, lr=1e-3) for tie in (0.0, 100.0))
    for agent in (loose, tight):
        with torch.no_grad():
            for k, p in enumerate([*agent.critic.parameters(), *agent.actor.parameters()]):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
        before = [float(tie_of(net)) for net in (agent.critic, agent.actor)]
        for _ in range(20):
            agent.update(equal_quotas(agent.spec))
        agent.less = [
            1 - float(tie_of(net)) / old for net, old in zip((agent.critic, agent.actor), before, strict=True)
        ]
    assert all(much > 0.03 > abs(little) * 3 for much, little in zip(tight.less, loose.less, strict=True))


@pytest.mark.parametrize("task_id", ["embedding", "embedding+goal", "language+goal"])
def test_a_learned_identity_learns(task_id):
    vectors = torch.eye(3, 8) if "language" in task_id else None
    agent = AGENTS["td3"](spec_of(task_id, vectors=vectors), settings_of("td3"))
    before = agent.encode.embedding.detach().clone()
    agent.update(equal_quotas(agent.spec))
    assert (agent.encode.embedding != before).all()


def test_goals_are_normalised_by_the_statistics_of_their_kind():
    encode, g = Encoder(spec_of(kinds=(0, 1, 0))), torch.Generator().manual_seed(0)
    goals = [torch.randn(50, 2, generator=g) * scale + shift for scale, shift in ((1, 5), (3, -40), (2, 8))]
    for k, goal in enumerate(goals):
        encode.observe(torch.randn(10, 4, generator=g), goal, k)
    kinds = torch.cat((goals[0], goals[2])), goals[1]
    for k in range(3):
        x = encode(State(torch.zeros(50, 4), goals[k], torch.full((50,), k)))
        known = kinds[1 if k == 1 else 0]
        wanted = ((goals[k] - known.mean(0)) / known.std(0, correction=0)).clamp(-5, 5)
        torch.testing.assert_close(x[:, 4:6], wanted, rtol=1e-4, atol=1e-4)
        assert x[:, 6:].tolist() == torch.eye(3)[k].expand(50, 3).tolist()


def test_goal_maps_built_alike_are_of_one_kind():
    again = replace(POINT, name="again", goal_of=type(POINT.goal_of)((..., slice(0, 2))))
    assert Spec.of([POINT, SWAP, again], 0.9, "onehot+goal").kinds == (0, 1, 0)


def test_goals_that_tell_tasks_apart_stay_apart():
    """One normaliser for all: two tasks whose goals lie far from each other look different to the policy."""
    tasks = [POINT, SWAP]
    encode = Encoder(Spec.of(tasks, 0.9, "goal"))
    near, far = torch.rand(50, 2), torch.rand(50, 2) + 30
    for k, goals in enumerate((near, far)):
        encode.observe(torch.zeros(5, 2), goals, k)
    seen = [encode(State(torch.zeros(50, 2), goals, torch.full((50,), k))) for k, goals in enumerate((near, far))]
    assert (seen[0][:, 2:] < 0).all() and (seen[1][:, 2:] > 0).all()


def test_a_new_sentence_is_the_known_one_that_it_is_like():
    """Tasks whose sentences are exchanged look like each other; one between two is a mixture of both."""
    encode = Encoder(spec_of("language+goal", vectors=torch.eye(3, 8)))
    own = encode.identities().detach()
    assert (own - encode.embedding).abs().max() < 1e-5
    encode.vectors[:] = torch.eye(3, 8)[[1, 0, 2]]
    torch.testing.assert_close(encode.identities(), own[[1, 0, 2]])
    encode.vectors[0] = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]) / 2**0.5
    torch.testing.assert_close(encode.identities()[0], (own[0] + own[1]) / 2, rtol=1e-3, atol=1e-4)


# Whose policy is played ---------------------------------------------------------------------------------------------


class Listens:
    """An agent that stands still and notes as which task it was asked to act."""

    def __init__(self):
        self.asked = []

    def act(self, state, carry=None, explore=False):
        self.asked.append(set(state.task.tolist()))
        return torch.zeros(len(state.obs), 2), None


def test_every_task_is_evaluated_as_itself(monkeypatch):
    plan, agent = plan_of(THREE, "td3"), Listens()
    monkeypatch.setattr(evaluate.policy, "load", lambda run, device: (agent, plan, 7))
    evaluate.report(evaluate.Settings("run", episodes=2))
    assert agent.asked == [{k} for k in range(3) for _ in range(POINT.horizon)]
    agent.asked.clear()
    evaluate.report(evaluate.Settings("run", episodes=2, task=("test-swap",)))
    assert agent.asked == [{2}] * POINT.horizon


def test_training_evaluates_every_task_as_itself(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        train, "evaluate", lambda evaluators, training: seen.append([(e.task.name, e.k) for e in evaluators]) or {}
    )
    monkeypatch.setattr(train.Progress, "evaluated", lambda *args: None)
    plan = plan_of(THREE, "td3", steps=20, eval_episodes=3)
    training, folder = train.Training(plan), tmp_path / "run"
    folder.mkdir()
    assert train.learn(training, folder, 0.0)
    assert seen == [[(task.name, k) for k, task in enumerate(plan.tasks)]]


def test_an_episode_feeds_the_statistics_of_its_own_goals():
    training = train.Training(plan_of(THREE, "td3"))
    episode = Episode(*(np.ones(shape, np.float32) for shape in ((4, 2), (3, 2), (3, 2), (3,))), False)
    for k in range(3):
        before = [int(goal.count) for goal in training.agent.encode.goals]
        training.keep(k, episode)
        after = [int(goal.count) for goal in training.agent.encode.goals]
        kind = int(training.agent.encode.kind[k])
        assert [b - a for a, b in zip(before, after, strict=True)] == [7 * (j == kind) for j in range(len(after))]
    assert len(set(training.agent.encode.kind.tolist())) == 3


def test_a_task_without_goals_has_no_say_in_the_success_of_all():
    result = Result.of([Outcome(1.0, 1.0, 3.0, 5.0), Outcome(0.0, 1.0, 1.0, 5.0), Outcome(np.nan, np.nan, 5.0, 5.0)])
    assert (result.episodes, result.success, result.success_any, result.mean_return) == (3, 0.5, 1.0, 3.0)
    assert np.isnan(Result.of([Outcome(np.nan, np.nan, 5.0, 5.0)]).success)


@pytest.mark.parametrize(
    ("tasks", "episodes", "lanes"), [(1, 25, 5), (5, 25, 5), (7, 100, 3), (50, 9, 1), (1, 2, 2), (3, 0, 1)]
)
def test_many_tasks_have_fewer_simulators_each(tasks, episodes, lanes):
    assert lanes_for(tasks, episodes) == lanes


def test_what_is_played_side_by_side_does_not_matter():
    agent = plan_of([POINT], "td3")
    policy = train.Training(agent).agent
    one, five = (Evaluator(POINT, lanes).play(policy, 7) for lanes in (1, 5))
    np.testing.assert_allclose(one, five, rtol=1e-5)


@pytest.mark.parametrize(
    "typed, agent",
    [("", "sac"), ("--offline --data x", "iql"), ("--data x", "sac"), ("--offline --data x --agent bc", "bc")],
)
def test_who_learns_unless_said(typed, agent):
    settings, _ = command_line(typed.split())
    assert settings.agent == agent and type(settings.algorithm) is AGENTS[agent].Settings
