"""The bridge to Stable-Baselines3, driven by SB3 itself. Long: one file a module.

Every observation of the walk is (x, episode, t) and every desired goal (x, -1 - episode, t), so a row says what it is.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import zipfile
from collections import Counter, OrderedDict
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DDPG, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import tasks
from gcrl import policy
from gcrl.evaluate import SEED, Evaluator, evaluation_seed
from gcrl.sb3 import HindsightReplayBuffer, Policy, actor_of, environment, read_weights
from gcrl.settings import default
from gcrl.train import train
from tasks import InputError, SimulatorError
from tests.test_replay import cost
from tests.test_store import same_place, walk_task

GAMMA = 0.9
TASKS = {"ends": walk_task(reward=cost, terminated=same_place), "never ends": walk_task(reward=cost)}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
SEEN = gymnasium.spaces.Box(-np.inf, np.inf, (3,))


def small(**changes):
    """Settings of SB3's, made anew: it writes into the dict that it is given."""
    return {"policy_kwargs": {"net_arch": [16]}, "device": "cpu", **changes}


class Walk(gymnasium.Env):
    """Steps of -1, 0 or 1 from 0, towards a goal that changes at every step; a fall beyond 2 ends any task."""

    observation_space = gymnasium.spaces.Dict(observation=SEEN, achieved_goal=SEEN, desired_goal=SEEN)
    action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def __init__(self, task, lane=0):
        self.task, self.episode, self.x, self.t = task, 100 * lane - 1, 0, 0
        self.steps, self.closed = {}, set()

    def see(self):
        here = np.array([self.x, self.episode, self.t], np.float32)
        wanted = np.array([self.wanted[self.t], -1 - self.episode, self.t], np.float32)
        return {"observation": here, "achieved_goal": here.copy(), "desired_goal": wanted}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.t:
            self.closed.add(self.episode)
        self.episode, self.x, self.t = self.episode + 1, 0, 0
        self.wanted = self.np_random.integers(-2, 3, 100)
        return self.see(), {}

    def step(self, action):
        before = self.see()
        self.x, self.t = self.x + int(np.round(1.2 * action[0])), self.t + 1
        after = self.see()
        goals = after["achieved_goal"], before["desired_goal"]
        fell, reward = abs(self.x) > 2, float(self.task.reward(*goals))
        self.steps[self.episode, self.t - 1] = before, np.array(action), after, fell
        return after, reward, fell or bool(self.task.terminated(*goals)), False, {}


def walks(task, lanes):
    """Walks side by side whose clocks stop at different times."""
    return [Walk(task, lane) for lane in range(lanes)]


def vectorised(envs):
    made = [gymnasium.wrappers.TimeLimit(env, 6 + 2 * i) for i, env in enumerate(envs)]
    return DummyVecEnv([lambda env=env: env for env in made])


def sac(task, env, steps=400, learning_starts=10_000, **kwargs):
    """SB3's SAC that has taken `steps` steps."""
    buffer = {"task": task} | kwargs
    kind = {"replay_buffer_class": HindsightReplayBuffer, "replay_buffer_kwargs": buffer, "gamma": GAMMA, "seed": 0}
    return SAC("MultiInputPolicy", env, learning_starts=learning_starts, **kind, **small()).learn(steps)


def rows(samples):
    """One dict of plain lists for each row."""
    columns = {
        **{key: x.tolist() for key, x in samples.observations.items()},
        **{f"next {key}": x.tolist() for key, x in samples.next_observations.items()},
        "action": samples.actions.tolist(),
        "reward": samples.rewards[:, 0].tolist(),
        "done": samples.dones[:, 0].tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def check(envs, task, buffer, n=8000):
    """Every field of n rows against what the environments noted; what was seen of each kind of row."""
    steps = {key: step for env in envs for key, step in env.steps.items()}
    closed = {key for key in steps if any(key[0] in env.closed for env in envs)}
    samples, seen, drawn = buffer.sample(n), Counter(), set()
    shapes = [(n, 3)] * 6 + [(n, 2), (n, 1), (n, 1)]
    fields = [*samples.observations.values(), *samples.next_observations.values(), *samples[1:2], *samples[3:5]]
    assert [tuple(x.shape) for x in fields] == shapes and {x.dtype for x in fields} == {torch.float32}
    for row in rows(samples):
        key = (int(row["observation"][1]), int(row["observation"][2]))
        assert key in closed, "a step of an episode that has not ended"
        drawn.add(key)
        before, action, after, fell = steps[key]
        assert row["observation"] == row["achieved_goal"] == before["observation"].tolist()
        assert row["next observation"] == row["next achieved_goal"] == after["observation"].tolist()
        assert row["action"] == action.tolist()
        goal = row["desired_goal"]
        assert row["next desired_goal"] == goal
        hindsight = goal[1] == key[0]
        if hindsight:
            assert goal[2] > key[1] and goal == steps[key[0], int(goal[2]) - 1][2]["observation"].tolist()
        else:
            assert goal == before["desired_goal"].tolist()
        reached = row["next observation"][0] == goal[0]
        assert row["reward"] == (0 if reached else -1)
        assert row["done"] == (fell or (reached and task.terminated is same_place))
        last = (key[0], key[1] + 1) not in steps
        seen["hindsight" if hindsight else "own goal"] += 1
        seen["fell" if fell else "reached" if reached else "clock" if last else "went on"] += 1
    assert drawn == closed and len(closed) == buffer.size()
    assert set(seen) >= {"hindsight", "own goal", "fell", "reached", "clock", "went on"}, "a case that was not seen"
    assert 0.75 < seen["hindsight"] / n < 0.85
    return samples


@every_task
@pytest.mark.parametrize("lanes", [1, 3])
def test_every_field_is_what_the_simulator_noted(task, lanes):
    envs = walks(task, lanes)
    model = sac(task, vectorised(envs))
    assert check(envs, task, model.replay_buffer).discounts is None, "SB3 discounts by its own gamma"


@every_task
def test_an_episode_that_learn_cuts_off_does_not_run_on_into_the_next(task):
    envs = walks(task, 3)
    model = sac(task, vectorised(envs), steps=300)
    for _ in range(4):
        model.learn(30)
    cut = sum(any(e == episode and t < 5 for e, t in env.steps) for env in envs for episode in env.closed)
    assert cut > 4
    check(envs, task, model.replay_buffer)


@every_task
def test_n_steps_are_rewarded_for_one_goal_and_cut_where_it_ends(task):
    envs = walks(task, 3)
    buffer = sac(task, vectorised(envs), n_steps=3, gamma=GAMMA).replay_buffer
    steps = {key: step for env in envs for key, step in env.steps.items()}
    samples, lengths = buffer.sample(1000), Counter()
    for row, discount in zip(rows(samples), samples.discounts[:, 0].tolist(), strict=True):
        (_, episode, t), goal, total, done = map(int, row["observation"]), row["desired_goal"], 0.0, False
        for i in range(3):
            _, _, after, fell = steps[episode, t + i]
            reached = after["observation"][0] == goal[0]
            total += GAMMA**i * (0 if reached else -1)
            done = fell or (reached and task.terminated is same_place)
            if done or (episode, t + i + 1) not in steps:
                break
        assert row["next observation"] == after["observation"].tolist()
        assert row["reward"] == pytest.approx(total) and row["done"] == done
        assert done or discount == pytest.approx(GAMMA ** (i + 1))
        lengths[i, done] += 1
    assert {i for i, _ in lengths} == {0, 1, 2} and {done for _, done in lengths} == {True, False}


@pytest.mark.parametrize("keys", [None, ["observation"]])
def test_vec_normalize_is_honoured(keys):
    task = TASKS["ends"]
    envs = walks(task, 2)
    norm = VecNormalize(vectorised(envs), gamma=GAMMA, norm_obs_keys=keys)
    buffer = sac(task, norm).replay_buffer
    raw, seen = copy.deepcopy(buffer).sample(500), buffer.sample(500, env=norm)
    assert not torch.equal(raw.rewards, seen.rewards)
    for plain, shown in ((raw.observations, seen.observations), (raw.next_observations, seen.next_observations)):
        wanted = norm.normalize_obs({key: x.numpy() for key, x in plain.items()})
        for key, x in shown.items():
            assert x.dtype == torch.float32 and np.array_equal(x.numpy(), wanted[key])
            assert np.array_equal(x.numpy(), plain[key].numpy()) == (keys is not None and key not in keys)
    assert np.array_equal(seen.rewards.numpy(), norm.normalize_reward(raw.rewards.numpy()))
    assert torch.equal(seen.dones, raw.dones) and torch.equal(seen.actions, raw.actions)
    steps = {key: step for env in envs for key, step in env.steps.items()}
    for row in rows(raw):  # what is stored is as the environment gave it; SB3 has the last one back from its normaliser
        before, _, after, _ = steps[int(row["observation"][1]), int(row["observation"][2])]
        assert row["observation"] == before["observation"].tolist()
        assert row["next observation"] == pytest.approx(after["observation"].tolist(), abs=1e-3)


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG])
def test_the_algorithms_learn_from_it(algorithm):
    task, weights = TASKS["ends"], []
    for _ in range(2):
        model = algorithm(
            "MultiInputPolicy",
            vectorised(walks(task, 2)),
            replay_buffer_class=HindsightReplayBuffer,
            replay_buffer_kwargs={"task": task, "relabel": "future:0.4,random:0.4"},
            action_noise=NormalActionNoise(np.zeros(2), np.full(2, 0.2)),
            learning_starts=30,
            seed=3,
            **small(),
        )
        start = copy.deepcopy(model.policy.state_dict())
        model.learn(300)
        weights.append(model.policy.state_dict())
        assert model._n_updates > 100
    assert any(not torch.equal(x, start[name]) for name, x in weights[0].items())
    assert all(torch.isfinite(x).all() and torch.equal(x, weights[1][name]) for name, x in weights[0].items())


def test_one_line_on_fetch_and_what_sb3_saves_comes_back(tmp_path):
    model = SAC(
        "MultiInputPolicy",
        environment("fetch-reach"),
        replay_buffer_class=HindsightReplayBuffer,
        replay_buffer_kwargs={"task": "fetch-reach", "relabel": "future"},
        **small(),
    ).learn(160)
    assert model._n_updates == 60 and model.replay_buffer.size() == 150
    b = model.replay_buffer.sample(200)
    reward = -1.0 * ((b.next_observations["achieved_goal"] - b.observations["desired_goal"]).norm(dim=1) > 0.05)
    assert torch.equal(b.rewards[:, 0], reward) and not b.dones.any() and (reward == 0).any()
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    again = SAC.load(tmp_path / "model", env=environment("fetch-reach"), device="cpu")
    again.load_replay_buffer(tmp_path / "buffer")
    twin, ours = again.replay_buffer.sample(50), model.replay_buffer.sample(50)
    assert all(torch.equal(twin.observations[key], ours.observations[key]) for key in twin.observations)
    again.learn(60)
    assert again.replay_buffer.size() == 210, "150, the 10 that the loading cut off, and 50"


def test_a_task_without_goals_keeps_its_rewards():
    model = SAC(
        "MlpPolicy",
        environment("gym:Pendulum-v1"),
        learning_starts=200,
        replay_buffer_class=HindsightReplayBuffer,
        replay_buffer_kwargs={"task": "gym:Pendulum-v1"},
        **small(),
    ).learn(220)
    b = model.replay_buffer.sample(400)
    store = model.replay_buffer.replay.stores[0]
    found = (b.observations[:, None].numpy() == store.observation[None, :200]).all(-1).argmax(1)
    assert np.array_equal(b.rewards[:, 0].numpy(), store.reward[found]) and not b.dones.any()
    assert np.array_equal(b.next_observations.numpy(), store.observation[found + 1])


def test_the_environment_has_the_tasks_clock_and_its_reward_for_other_goals():
    env = environment("fetch-reach")
    model = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, **small()).learn(110)
    assert model._n_updates == 10
    seen, _ = env.reset(seed=1)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(50)]
    assert ends == [(False, False)] * 49 + [(False, True)]
    task = tasks.get("fetch-reach")
    achieved, desired = np.random.default_rng(0).normal(0, 0.05, (2, 100, 3))
    assert np.array_equal(env.get_wrapper_attr("compute_reward")(achieved, desired, {}), task.reward(achieved, desired))
    assert np.array_equal(task.goal_of(seen["observation"]), seen["achieved_goal"])


def buffer(task=TASKS["ends"], seen=Walk.observation_space, size=100, **kwargs):
    return HindsightReplayBuffer(size, seen, Walk.action_space, "cpu", 1, task=task, **kwargs)


def test_what_cannot_be_is_said_in_one_line():
    for wrong, words in (
        (lambda: buffer(task="fetch-push"), "environment"),
        (lambda: buffer(seen=SEEN), "environment"),
        (lambda: buffer(size=11), "12 steps"),
        (lambda: buffer(n_steps=2), "gamma"),
        (lambda: buffer(relabel="geometric"), "gamma"),
        (lambda: buffer(relabel="futur"), "future"),
        (lambda: sac(TASKS["ends"], vectorised(walks(TASKS["ends"], 2)), 100, learning_starts=2), "learning_starts=24"),
    ):
        with pytest.raises(InputError, match=words) as error:
            wrong()
        assert "\n" not in str(error.value)
    one = {key: np.zeros((1, 3)) for key in Walk.observation_space}
    rest = np.zeros((1, 2)), np.zeros(1), np.zeros(1, bool), [{}]
    for key in one:
        with pytest.raises(InputError if key == "achieved_goal" else SimulatorError):
            buffer().add(one | {key: np.full((1, 3), np.nan)}, one, *rest)
    with pytest.raises(InputError, match="reads off the observation"):
        buffer().add(one | {"achieved_goal": np.ones((1, 3))}, one, *rest)


def test_what_is_handed_in_may_be_overwritten_afterwards():
    mine = buffer()
    seen, after = ({key: np.zeros((1, 3), np.float32) for key in Walk.observation_space} for _ in range(2))
    action, reward = np.zeros((1, 2), np.float32), np.zeros(1)
    for t in range(4):
        for x in (seen["observation"], seen["achieved_goal"], action, reward):
            x[:] = t
        after["observation"][:] = after["achieved_goal"][:] = t + 1
        mine.add(seen, after, action, reward, np.array([t == 3]), [{"TimeLimit.truncated": True}])
    store = mine.replay.stores[0]
    assert store.observation[:5, 0].tolist() == [0, 1, 2, 3, 4]
    assert store.action[:4, 0].tolist() == store.reward[:4].tolist() == [0, 1, 2, 3]
    mine.reset()
    assert mine.size() == 0


# Our policies under SB3's evaluation.


class Seeded(gymnasium.Wrapper):
    """Its episodes begin from these seeds, one after the other."""

    def __init__(self, env, seeds):
        super().__init__(env)
        self.seeds = iter(seeds)

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=next(self.seeds))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = default("td3")
    algorithm = replace(settings.algorithm, hidden=(64, 64), batch=128)
    where = tmp_path_factory.mktemp("runs")
    return train(replace(settings, algorithm=algorithm, steps=750, utd=2.0, eval_episodes=0, runs=where, device="cpu"))


def test_evaluate_policy_says_what_gcrl_evaluate_says(run):
    agent, plan, _ = policy.load(run, "cpu")
    ours = Evaluator(plan.tasks[0])(agent, 20)
    success = []
    env = Seeded(environment("fetch-reach"), [evaluation_seed(SEED, n) for n in range(21)])
    scores, lengths = evaluate_policy(
        Policy.load(run, "cpu"),
        env,
        n_eval_episodes=20,
        callback=lambda here, _: success.append(here["info"]["is_success"]) if here["done"] else None,
        return_episode_rewards=True,
    )
    assert lengths == [50] * 20 and ours.success_low <= np.mean(success) <= ours.success_high
    assert np.mean(scores) == pytest.approx(ours.mean_return, abs=0.2) and len(set(scores)) > 1, scores


def test_predict_takes_one_or_many(run):
    pi, env = Policy.load(run, "cpu"), environment("fetch-reach")
    seen = [env.reset(seed=i)[0] for i in range(4)]
    many = {key: np.stack([s[key] for s in seen]) for key in seen[0]}
    actions, state = pi.predict(many, episode_start=np.ones(4, bool))
    assert actions.shape == (4, 4) and actions.dtype == np.float32 and state is None
    for one, action in zip(seen, actions, strict=True):
        assert np.allclose(pi.predict(one)[0], action, atol=1e-6) and np.allclose(pi(one), action, atol=1e-6)
    assert not np.allclose(pi.predict(many, deterministic=False)[0], actions)
    with pytest.raises(InputError, match="fetch-reach"):
        pi.predict(environment("fetch-push").reset(seed=0)[0])


# SB3's weights.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> (model, its file)"""
    out, env = {}, environment("fetch-reach")
    for name, kind, net in (
        ("sac", SAC, {"net_arch": [32, 32]}),
        ("td3", TD3, {"net_arch": [16]}),
        ("ddpg", DDPG, {"net_arch": [400, 300]}),
        ("linear", SAC, {"net_arch": []}),
        ("tanh", TD3, {"net_arch": [16, 8, 16, 8, 16, 8], "activation_fn": torch.nn.Tanh}),
    ):
        model = kind("MultiInputPolicy", env, policy_kwargs=net, learning_starts=51, device="cpu", buffer_size=1000)
        file = tmp_path_factory.mktemp("models") / f"{name}.zip"
        model.learn(55).save(file)
        out[name] = model, file
    return out


@pytest.mark.parametrize("name", ["sac", "td3", "ddpg", "linear", "tanh"])
def test_weights_and_actor_are_the_models(saved, name):
    model, file = saved[name]
    networks = read_weights(file)
    ours = {f"{network}.{rest}": x for network, tensors in networks.items() for rest, x in tensors.items()}
    theirs = model.policy.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(x, theirs[key]) for key, x in ours.items())
    pi = actor_of(networks, activation=torch.tanh) if name == "tanh" else actor_of(networks)
    rng = np.random.default_rng(0)
    many = {key: rng.normal(size=(64, *s.shape)) for key, s in model.observation_space.items()}
    assert np.allclose(pi(many), model.predict(many, deterministic=True)[0], atol=1e-6)
    one = {key: x[0] for key, x in many.items()}
    assert np.allclose(pi(one), model.predict(one, deterministic=True)[0], atol=1e-6) and pi(one).shape == (4,)
    played = [evaluate_policy(who, Seeded(environment("fetch-reach"), range(9)), 2) for who in (pi, model)]
    assert played[0] == played[1]


def test_an_actor_that_is_another_is_refused(saved):
    networks = read_weights(saved["sac"][1])
    for wrong in (
        {},
        {"actor": {}},
        {"actor": {k: x for k, x in networks["actor"].items() if k != "log_std.bias"}},
        {"actor": networks["actor"] | {"latent_pi.1.weight": torch.ones(3)}},
        {"actor": networks["critic"]},
    ):
        with pytest.raises(InputError, match="linear layers"):
            actor_of(wrong)
    sde = SAC("MultiInputPolicy", environment("fetch-reach"), use_sde=True, **small())
    with pytest.raises(InputError, match="gSDE"):
        actor_of({"actor": sde.actor.state_dict()})
    with pytest.raises(InputError, match="16 numbers"):
        actor_of(networks)(environment("fetch-push").reset(seed=0)[0])
    with pytest.raises(InputError, match="deterministic"):
        actor_of(networks).predict(environment("fetch-reach").reset(seed=0)[0], deterministic=False)


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def archive(members, compression=zipfile.ZIP_STORED):
    """A zip of these files, as bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


def torch_bytes(content):
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def test_nothing_in_a_hostile_file_executes(saved, tmp_path):
    caught, file = tmp_path / "caught", tmp_path / "model.zip"
    trap, weights = Trap(caught), OrderedDict(saved["sac"][0].policy.state_dict())
    beside = {"data": pickle.dumps(trap), "pytorch_variables.pth": torch_bytes(trap), "actor.optimizer.pth": b"?"}
    file.write_bytes(archive(beside | {"policy.pth": torch_bytes(weights)}))
    assert read_weights(file).keys() == {"actor", "critic", "critic_target"}, "no other member is looked at"
    for content in (
        pickle.dumps(trap),
        pickle.dumps(trap, 2),
        torch_bytes(trap),
        torch_bytes(weights | {"actor.trap": trap}),
        torch_bytes(OrderedDict([(("actor.trap", trap), torch.ones(2))])),
        torch_bytes([weights, trap]),
    ):
        file.write_bytes(archive(beside | {"policy.pth": content}))
        with pytest.raises(InputError, match="not a model that SB3 has saved") as error:
            read_weights(file)
        assert "\n" not in str(error.value)
    assert not caught.exists()
    pickle.loads(pickle.dumps(trap))  # noqa: S301 - the trap does work
    assert caught.exists()


GOOD = {"kind": "FloatStorage", "key": "0", "offset": 0, "size": (2, 3), "stride": (3, 1), "name": "a.b"}


def word(x):
    """A literal in the words of pickle."""
    if isinstance(x, tuple):
        return b"(" + b"".join(map(word, x)) + b"t"
    if isinstance(x, str):
        return b"X" + len(x.encode()).to_bytes(4, "little") + x.encode()
    return b"J" + (x % 2**32).to_bytes(4, "little")


def entry(kind, key, offset, size, stride, name):
    """A name and its tensor, as torch writes them."""
    storage = b"(" + word("storage") + f"ctorch\n{kind}\n".encode() + word(key) + word("cpu") + word(6) + b"tQ"
    rest = word(offset) + word(size) + word(stride) + b"\x89)t"
    return word(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"R"


def test_a_file_that_lies_is_refused_in_one_line(saved, tmp_path):
    file, numbers = tmp_path / "model.zip", np.arange(6, dtype=np.float32).tobytes()

    def refused(content, words="not a model"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=words) as error:
            read_weights(file)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600

    def model(numbers=numbers, compression=zipfile.ZIP_STORED, **changes):
        return packed(b"}" + entry(**(GOOD | changes)) + b"s.", numbers, compression)

    def packed(program, numbers=numbers, compression=zipfile.ZIP_STORED):
        inside = archive({"x/data.pkl": b"\x80\x02" + program, "x/data/0": numbers}, compression)
        return archive({"policy.pth": inside})

    file.write_bytes(model())
    assert read_weights(file)["a"]["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for changes in (
        {"kind": "NoStorage"},
        {"key": "1"},
        {"key": "../../x/data.pkl"},
        {"offset": 1},
        {"offset": -1},
        {"size": (2, 4)},
        {"size": (2**30, 2**30)},
        {"size": (-2, -3)},
        {"size": (-1, 3)},
        {"size": (6,)},
        {"size": (1,) * 20_000 + (6,), "stride": (6,) * 20_000 + (1,)},
        {"stride": (0, 0)},
        {"stride": (1, 2)},
        {"name": "../a"},
        {"name": "a"},
        {"name": ("a", "b")},
        {"numbers": numbers[:-4]},
        {"numbers": b""},
        {"numbers": np.full(6, np.nan, np.float32).tobytes()},
        {"compression": zipfile.ZIP_DEFLATED},
    ):
        refused(model(**changes))
    one = GOOD | {"size": (1 << 18,), "stride": (1,)}  # a megabyte, 65 times
    often = b"}(" + b"".join(entry(**(one | {"name": f"a.x{i}"})) for i in range(65)) + b"u."
    refused(packed(often, bytes(1 << 20)), "its tensors take more")
    deep = b")" + b"\x85" * 100_000
    another = entry(**GOOD).replace(b"_rebuild_tensor_v2", b"_rebuild_parameter")
    for program in (
        b"}" + another + b"s.",
        *(b"", b".", b"}", b"N.", b"((((.", b"h\x01.", b"t.", b"0.", b"}N.", b"}X\xff\xff\xff\xffa."),
        b"}" + deep + b"\x89s.",
        b"}" + word("a.b") + deep + b"s.",
        deep + b")R.",
        b"cos\nsystem\n" + word(("true",)) + b"R.",
        b"cbuiltins\neval\n" + word(("1",)) + b"R.",
        b"ccollections\nOrderedDict\n" + word(("a",)) + b"R.",
        b"(" + word("true") + b"ios\nsystem\n.",
        b"}" + word("a.b") + b"}s.",
    ):
        refused(packed(program))
    refused(archive({"policy.pth": archive({"x/data.pkl": b"N" * (1 << 19)})}), "larger")
    refused(archive({"policy.pth": archive({"x/data.pkl": b".", "y/data.pkl": b"."})}))
    refused(archive({"policy.pth": b""}))
    refused(archive({"weights.pth": torch_bytes({})}), "policy.pth")
    refused(b"not a zip")
    refused(saved["sac"][1].read_bytes()[:-100])
    for path in (tmp_path, tmp_path / "none.zip"):
        with pytest.raises(InputError, match="cannot be read"):
            read_weights(path)


def test_a_damaged_file_is_refused_or_read(saved, tmp_path):
    whole, rng, outcomes = saved["td3"][1].read_bytes(), np.random.default_rng(0), Counter()
    inside = zipfile.ZipFile(saved["td3"][1]).read("policy.pth")
    for _ in range(200):
        data = bytearray(inside)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(256)
        (tmp_path / "x.zip").write_bytes(archive({"policy.pth": bytes(data)}))
        try:
            read_weights(tmp_path / "x.zip")
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert len(whole) > len(inside) and outcomes["refused"] > 50
