"""What the policy sees relative to the goal, against the same columns put together one by one; and when it does so."""

from __future__ import annotations

import dataclasses
import operator

import pytest
import torch

import tasks
from gcrl.agents import AGENTS
from gcrl.encoder import Encoder, Spec
from gcrl.settings import Plan, command_line
from relabel.batch import State
from tasks.layout import picked, places_of, together
from tasks.task import part
from tests.problems import PLAIN, POINT, settings_of

SETS = (
    ("fetch-push",),
    ("fetch-reach",),
    ("fetch-push-beside", "fetch-push"),
    ("table-reach", "table-lift", "table-touch", "table-push"),  # three goal maps and one short goal
)
every_set = pytest.mark.parametrize("names", SETS, ids="+".join)
every_identity = pytest.mark.parametrize("task_id", ["goal", "onehot+goal", "embedding+goal", "language+goal"])


def made(names, task_id):
    """The tasks, their spec, and an encoder that has seen something of each."""
    torch.manual_seed(0)
    chosen = together([tasks.get(name) for name in names])
    vectors = torch.randn(len(chosen), 7) if "language" in task_id else None
    spec = Spec.of(chosen, 0.98, task_id, vectors, places=chosen[0].places)
    encoder = Encoder(spec)
    for k, task in enumerate(chosen):
        obs = torch.randn(200, task.obs_dim) * torch.linspace(0.05, 2, task.obs_dim) + torch.arange(task.obs_dim) / 9
        encoder.observe(obs, task.goal_of(obs) * (1 + k) + 0.1 * k, k)
    return chosen, spec, encoder


def states(chosen, size=90, seed=0):
    """Of all tasks in turn, with goals near what is achieved and far from it."""
    g = torch.Generator().manual_seed(seed)
    obs = torch.randn(size, chosen[0].obs_dim, generator=g)
    task = torch.arange(size) % len(chosen)
    achieved = torch.stack([chosen[k].goal_of(x) for k, x in zip(task.tolist(), obs, strict=True)])
    away = torch.randn(achieved.shape, generator=g) * torch.tensor([0.1, 30.0])[torch.arange(size) % 2, None]
    return State(obs, achieved + away * (achieved != 0), task)  # behind a short goal there are zeros


@every_set
@every_identity
def test_the_input_is_what_is_seen_and_how_far_the_goal_is(names, task_id):
    """Row by row: the normalised observation but for the places, the way to the goal by its kind's scale, clipped."""
    chosen, spec, encoder = made(names, task_id)
    state = states(chosen)
    x = encoder(state)
    hidden, clipped = chosen[0].places, 0
    width = {"goal": 0, "onehot+goal": len(chosen)}.get(task_id, 16)
    seen = [i for i in range(spec.obs_dim) if i not in hidden]
    assert hidden and x.shape == (90, encoder.dim) and encoder.dim == len(seen) + spec.goal_dim + width
    for obs, goal, k, row in zip(state.obs, state.goal, state.task.tolist(), x, strict=True):
        normaliser = encoder.goals[spec.kinds[k]]
        way = ((goal - chosen[k].goal_of(obs)) * normaliser.scale).clamp(-5, 5)
        own = encoder.identities()[k] if width else x.new_zeros(0)
        torch.testing.assert_close(row, torch.cat((encoder.obs(obs)[seen], way, own)))
        clipped += int((way.abs() == 5).any())
    assert 20 < clipped < 90
    assert len(encoder.goals) == (1 if task_id == "goal" else len({picked(task).tobytes() for task in chosen}))
    inner = len(seen) + spec.goal_dim
    assert encoder.ident == (slice(inner, inner + width) if width else slice(len(seen), inner))


@every_set
@every_identity
def test_state_and_goal_apart_tell_nothing_of_each_other(names, task_id):
    """All of the observation, places too, and the goal by its kind's mean and scale; the identity with either."""
    chosen, spec, encoder = made(names, task_id)
    state = states(chosen)
    x, y = encoder.apart(state)
    width = {"goal": 0, "onehot+goal": len(chosen)}.get(task_id, 16)
    assert (x.shape[1], y.shape[1]) == encoder.dims == (spec.obs_dim + width, spec.goal_dim + width)
    for obs, goal, k, of_state, of_goal in zip(state.obs, state.goal, state.task.tolist(), x, y, strict=True):
        own = encoder.identities()[k] if width else x.new_zeros(0)
        torch.testing.assert_close(of_state, torch.cat((encoder.obs(obs), own)))
        torch.testing.assert_close(of_goal, torch.cat((encoder.goals[spec.kinds[k]](goal), own)))


def test_a_goal_that_is_a_whole_observation_looks_like_one_apart():
    """Of a task whose goal map picks all in order, and of no other; the policy's own input keeps the goal's scale."""
    whole = dataclasses.replace(tasks.get("fetch-reach"), goal_dim=10, goal_of=part(0, None))
    assert Spec.of([whole, whole], 0.98).whole
    for other in (
        dataclasses.replace(whole, goal_of=operator.itemgetter((..., slice(None, None, -1)))),
        tasks.get("fetch-reach"),
    ):
        assert not Spec.of([whole, other], 0.98).whole
    encoder = Encoder(Spec.of([whole], 0.98))
    encoder.observe(torch.randn(50, 10) * 3 + 1, torch.randn(50, 10))
    state = State(*torch.randn(2, 9, 10), torch.zeros(9, dtype=torch.int64))
    x, y = encoder.apart(state)
    assert torch.equal(x, encoder.obs(state.obs)) and torch.equal(y, encoder.obs(state.goal))
    torch.testing.assert_close(encoder(state), torch.cat((x, encoder.goals[0](state.goal)), 1))


def test_behind_a_short_goal_there_is_no_way_to_go():
    """Also where the observation has something in the columns that a careless -1 would pick."""
    chosen, _, encoder = made(SETS[3], "onehot+goal")
    assert picked(chosen[1]).tolist() == [5, -1, -1] and picked(chosen[0]).tolist() == [0, 1, 2]
    state = states(chosen)
    lift = state.task == 1
    way = encoder(state)[lift][:, encoder.ident.start - 3 : encoder.ident.start]
    assert way[:, 0].abs().min() > 0 and not way[:, 1:].any()
    assert (state.obs[lift][:, -1] != 0).all()


def shifted(names, state, by):
    """All that has a place moved along x and y: gripper, object, and goals that are places."""
    chosen = together([tasks.get(name) for name in names])
    obs, goal = state.obs.clone(), state.goal.clone()
    for i, place in enumerate(chosen[0].places):
        obs[:, place] += by[i % 2]
    for k, task in enumerate(chosen):
        for i, at in enumerate(picked(task).tolist()):
            if at in task.places:
                goal[state.task == k, i] += by[task.places.index(at) % 2]
    return State(obs, goal, state.task)


@every_set
@pytest.mark.parametrize("task_id", ["goal", "onehot+goal"])
@pytest.mark.parametrize("name", ["ddpg", "td3", "sac"])
def test_where_on_the_table_it_happens_is_nothing_to_actor_or_critic(names, task_id, name):
    """Along z, or of the goal alone, it is something wherever nothing is clipped."""
    chosen, spec, encoder = made(names, task_id)
    agent = AGENTS[name](spec, settings_of(name))
    agent.encode.load_state_dict(encoder.state_dict())
    state = states(chosen)
    action = torch.rand(90, 4) * 2 - 1

    def said(state):
        x = agent.encode(state)
        return torch.cat((agent.actor(x), agent.critic(x, action).T), 1).detach()

    here = said(state)
    there = said(shifted(names, state, (0.75, -2.5)))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    goal = state.goal.clone()
    goal[:, 0] += 0.01
    assert ((said(state._replace(goal=goal)) - here).abs().amax(1) > 1e-6).float().mean() > 0.4
    obs = state.obs.clone()
    obs[:, 2] += 0.1
    assert ((said(state._replace(obs=obs)) - here).abs().amax(1) > 1e-6).float().mean() > 0.4


@pytest.mark.parametrize("task_id", ["goal", "onehot+goal"])
def test_an_absolute_frame_sees_everything(task_id):
    chosen = together(tasks.find(["fetch-push-beside", "fetch-push"]))
    spec = Spec.of(chosen, 0.98, task_id)
    assert spec.goal_of == spec.places == ()
    encoder, state = Encoder(spec), states(chosen)
    assert torch.equal(encoder(state)[:, :28], torch.cat((state.obs, state.goal), 1).clamp(-5, 5))


# When the policy sees it so -----------------------------------------------------------------------------------------


def plan_for(*flags):
    return Plan.of(command_line(["--explore", "policy", "--task", *flags])[0])


@pytest.mark.parametrize(
    ("flags", "relative"),
    [
        (["fetch-reach"], True),
        (["fetch-push"], True),
        (["fetch-push", "--frame", "relative"], True),
        (["fetch-push", "--frame", "absolute"], False),
        (["fetch-push", "fetch-push-beside"], True),
        (["fetch-push", "fetch-push-beside", "--task-id", "goal"], True),
        (["fetch-push", "fetch-push-beside", "--task-id", "embedding+goal"], True),
        (["fetch-push", "fetch-push-beside", "--task-id", "onehot", "--relabel", "none"], False),  # sees no goal
        (["fetch-slide"], True),
        (["fetch-push", "fetch-slide"], True),
        (["table"], True),
        (["fetch-reach", "fetch-push"], True),  # one has no object: nothing lies where the other has its place
        (["point-maze-umaze"], False),  # walls
        (["gym:Pendulum-v1"], False),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else str(x),
)
def test_the_frame_is_relative_where_all_tasks_allow_it(flags, relative):
    made = plan_for(*flags)
    assert bool(made.places) == relative
    encoder = AGENTS[made.settings.agent](
        Spec.of(made.tasks, 0.9, made.task_id, places=made.places), settings_of(made.settings.agent)
    ).encode
    assert (len(encoder.seen) < made.tasks[0].obs_dim) == bool(encoder.maps) == relative


def test_how_far_the_arm_is_stretched_is_seen_where_speed_counts():
    slide, both = (plan_for(*names, "--explore", "relay") for names in (["fetch-slide"], ["fetch-push", "fetch-slide"]))
    assert slide.places == both.places == (1, 3, 4) and plan_for("fetch-push").places == (0, 1, 3, 4)


def test_a_place_that_another_task_needs_is_seen():
    """So are those of a task without goals; a goal map may be anything that takes tensors."""
    near, all_of = dataclasses.replace(POINT, places=(0,)), dataclasses.replace(POINT, name="other", places=(0, 1))
    bare = dataclasses.replace(PLAIN, places=(0,))
    assert places_of([all_of]) == places_of([all_of, all_of]) == (0, 1)
    assert places_of([near]) == places_of([near, all_of]) == (0,)
    assert not any(map(places_of, ([near, POINT], [bare], [POINT])))
    odd = dataclasses.replace(POINT, places=(0,), goal_of=double_of)
    encoder = Encoder(Spec.of([near, odd], 0.9, "onehot+goal", places=(0,)))
    state = State(torch.randn(4, POINT.obs_dim), torch.randn(4, POINT.goal_dim), torch.tensor([0, 1, 0, 1]))
    way = encoder(state)[:, POINT.obs_dim - 1 : POINT.obs_dim - 1 + POINT.goal_dim]
    for k, obs, goal, row in zip(state.task, state.obs, state.goal, way, strict=True):
        torch.testing.assert_close(row, (goal - (near, odd)[k].goal_of(obs)).clamp(-5, 5))


def double_of(obs):
    return 2 * POINT.goal_of(obs)
