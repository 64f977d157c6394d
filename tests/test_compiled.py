"""A compiled update is the update: the same numbers but for rounding, phases, resets and a resume included."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from gcrl import compiled
from gcrl.agents import AGENTS
from gcrl.agents.agent import load_optimizer_state, optimizer_state
from gcrl.compiled import Compiled, slots
from gcrl.layers import mask_of
from gcrl.settings import Plan, command_line
from gcrl.training import Training
from tasks.task import InputError
from tests.test_agents import ONLINE, SLOW, data_of, fresh, moved


@pytest.fixture(autouse=True)
def as_short():
    """Here runs are as long as they are."""


STEADY = [name for name in AGENTS if name != "wgcsl"]


def as_traced(graph, given):
    """In place of a compiler: the program is what is tested, and torch runs it."""
    return graph


def same(agents, rows, updates, tolerance=1e-3, begun=0):
    """Agents that learn from the same rows come to the same weights, metrics and optimizer states."""
    for seed in range(begun, begun + updates):
        if seed == 3:  # what is seen in between changes what the program reads
            for agent in agents:
                agent.encode.obs.observe(torch.arange(4.0)[:, None].expand(-1, agent.spec.obs_dim))
        if seed == 4:
            for agent in agents:
                agent.learn_at(0.1)
        found = []
        for agent, b in zip(agents, rows, strict=True):
            torch.manual_seed(seed)
            found.append(agent.update(b))
        torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=1e-4)
        assert agents[0].updates == agents[1].updates == seed + 1
    for p, q in zip(agents[0].parameters(), agents[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=3e-4)  # where a gradient is 0 but for rounding Adam moves
    torch.testing.assert_close(*map(optimizer_state, agents), rtol=tolerance, atol=1e-4)


def pair(name, *how, **wanted):
    """The same agent twice, the second compiled, and what each draws."""
    agents = [fresh(name, "two tasks", dropout=0.0, batch=30, **wanted) for _ in range(2)]
    agents[1].compile_update(*how)
    return agents, [data_of(agent, "two tasks")[0] for agent in agents]


@pytest.mark.parametrize("name", [a if a in (*ONLINE, "cql", "iql") else pytest.param(a, marks=SLOW) for a in STEADY])
def test_it_is_the_update(name):
    same(*pair(name, as_traced), 5)


def test_it_knows_the_phases():
    """The actor moves with every second update, and after the fourth there are new networks; neither is traced anew."""
    agents, rows = pair("td3", as_traced, delay=2, reset_every=4)
    same(agents, rows, 7)
    assert len(agents[1].update.programs) == 2


class Kernels:
    """In place of a GPU: a recorded program runs again on what it was recorded with, into the same memory."""

    def __init__(self, program):
        self.program = program

    def __call__(self, *given):
        self.given, self.found = given, self.program(*given)
        return self.found

    def replay(self):
        for x, new in zip(self.found, self.program(*self.given), strict=True):
            x.copy_(new)


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_as_a_graph_of_a_gpu_it_is_the_update_too(name, monkeypatch):
    """What is recorded reads where the data are put, the runs before it leave nothing, metrics stay as they were."""
    kept = []

    def recorded(graph, given):
        kernels = Kernels(graph)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: kernels)
        return compiled.recorded(kernels, given)

    for stand_in in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, stand_in, lambda: SimpleNamespace(wait_stream=lambda other: None))
    for stand_in in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, stand_in, lambda what: nullcontext())
    agents, rows = pair(name, recorded, delay=2, reset_every=4)
    whole = agents[1].update
    agents[1].update = lambda b: kept.append((found := whole(b), {k: x.clone() for k, x in found.items()})) or found
    same(agents, rows, 6)
    assert len(kept) == 6 and all(torch.equal(now[k], then[k]) for now, then in kept for k in then)
    other = data_of(fresh(name, "two tasks", batch=30), "two tasks")[0]
    other = type(other)(*(x.roll(1, 0) * 2 if x.is_floating_point() else x for x in other))
    same(agents, [other, other], 1, begun=6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine or this build of torch has no CUDA")
@pytest.mark.parametrize("name", ["iql", "td3", "sac"])
def test_on_a_gpu_it_is_the_update_and_the_same_each_time(name):
    agents, (b, _) = pair(name)
    agents = [agent.to("cuda") for agent in agents]
    if name != "sac":  # its two draws may change places
        same(agents, [moved(b, "cuda")] * 2, 5)
    agents[0].compile_update()
    agents[1].load_state_dict(agents[0].state_dict())
    load_optimizer_state(agents[1], optimizer_state(agents[0]))
    for agent in agents:
        torch.manual_seed(9)
        for _ in range(3):
            agent.update(moved(b, "cuda"))
    assert all(torch.equal(p, q) for p, q in zip(agents[0].parameters(), agents[1].parameters(), strict=True))


def test_going_on_elsewhere_is_going_on():
    """Tracing leaves nothing behind: who is brought to a compiled agent's state goes on to the same bits."""
    agents, (b, _) = pair("sac", as_traced)
    agents[0].compile_update(as_traced)
    one, other = agents
    for seed in range(2):
        torch.manual_seed(seed)
        one.update(b)
    other.load_state_dict(one.state_dict())
    load_optimizer_state(other, optimizer_state(one))
    for agent in agents:
        torch.manual_seed(9)
        for _ in range(2):
            agent.update(b)
    assert one.updates == other.updates == 4
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(slots(one), slots(other), strict=True))


def test_rows_may_lie_anywhere():
    """A program is made for columns in order, so it is handed such, however a replay hands them out."""

    def strict(graph, given):
        def program(*mine):
            assert all(x.is_contiguous() for x in (*given, *mine))
            return graph(*mine)

        return program

    agents, (b, _) = pair("sac", strict)
    apart = type(b)(*(torch.stack((x, x), -1)[..., 0] for x in b))
    assert not any(x.is_contiguous() for x in apart)
    same(agents, [b, apart], 3)


@SLOW
@pytest.mark.skipif(not compiled.compiler(), reason="it needs a C++ compiler")
@pytest.mark.parametrize("name", ["sac", "iql", "hiql", "dt"])
def test_the_real_compiler(name):
    """Of methods that draw at most once a loss, as it may change the order of draws."""
    same(*pair(name), 5)


@SLOW
@pytest.mark.skipif(not compiled.compiler(), reason="it needs a C++ compiler")
def test_a_compiled_mask_is_the_mask():
    h, found = torch.zeros(7, 33), []
    program = compiled.build(make_fx(lambda x: [x + mask_of(x, 0.1)])(h), [h])
    for mask in (lambda: program(h)[0], lambda: mask_of(h, 0.1)):
        torch.manual_seed(0)
        found.append(mask())
    assert torch.equal(*found) and 0 < (found[0] == 0).sum() < h.numel()


def test_what_cannot_be_traced_is_said_in_one_line():
    (_, agent), (b, _) = pair("td3", as_traced)
    agent.update.plain = lambda data: {"loss": data.obs.sum() * data.obs.sum().item()}
    with pytest.raises(InputError, match="--compile: an update cannot be traced") as caught:
        agent.update(b)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compiled(monkeypatch):
    with pytest.raises(InputError, match="--compile: updates of wgcsl"):
        fresh("wgcsl", "two tasks").compile_update()
    with pytest.raises(InputError, match="--compile: updates of sac"):
        fresh("sac", "two tasks", surgery="pcgrad").compile_update()
    with pytest.raises(InputError, match="--compile: updates of sac"):  # how long a task's rows are decides on shapes
        fresh("sac", "two tasks", weights="tied").compile_update()
    monkeypatch.setattr(compiled, "compiler", lambda: None)
    with pytest.raises(InputError, match="no C\\+\\+ compiler here"):
        fresh("sac", "two tasks").compile_update()


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("fetch-reach", False),
        ("fetch-push", True),
        ("fetch-reach --steps 19999", False),
        ("fetch-reach --steps 20000", True),
        ("fetch-reach --steps 39999 --utd 0.5", False),
        ("fetch-reach --steps 40000 --utd 0.5", True),
        ("fetch-reach --offline --data {data} --utd 0.5 --steps 19999", False),
        ("fetch-reach --offline --data {data} --utd 0.5 --steps 20000", True),
        ("fetch-push --no-compile", False),
        ("fetch-push --compile False --seed 1", False),
        ("fetch-push --compile None", True),
        ("fetch-reach --compile --seed 1", True),
        ("fetch-reach --compile", True),
    ],
)
def test_long_runs_are_compiled_unasked(flags, wanted, tmp_path):
    plan = Plan.of(command_line(["--task", *flags.format(data=tmp_path).split()])[0])
    assert plan.compile is wanted
    assert not compiled.pays(1e9, torch.device("cuda")), "no GPU has run it"


@pytest.mark.skipif(not compiled.compiler(), reason="it needs a C++ compiler")
@pytest.mark.parametrize(
    ("flags", "wanted"), [("--steps 20000", True), ("--steps 300", False), ("--steps 20000 --agent wgcsl", False)]
)
def test_a_run_is_as_its_plan_says_where_that_can_be(flags, wanted):
    plan = Plan.of(command_line(["--task", "fetch-reach", "--hidden", "8", *flags.split()])[0])
    assert isinstance(Training(plan).agent.update, Compiled) is wanted


@pytest.mark.parametrize("why", ["traced", "built"])
def test_unasked_what_fails_is_said_and_nothing_else_changes(why, capfd):
    def build(graph, given):
        raise ValueError("no such\nthing")

    agents = [fresh("td3", "two tasks", delay=2) for _ in range(2)]
    rows = [data_of(agent, "two tasks")[0] for agent in agents]
    agents[1].compile_update(build, optional=True)
    if why == "traced":
        plain = agents[1].update.plain
        agents[1].update.plain = lambda data: plain(data) if data.obs.sum().item() else {}
    for seed in range(3):
        for agent, b in zip(agents, rows, strict=True):
            torch.manual_seed(seed)
            agent.update(b)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("gcrl: --compile: ")
    assert said.endswith("updates stay as they are\n")
    assert "leave it out" not in said
    assert agents[1].update.__func__ is type(agents[1]).update and agents[0].updates == agents[1].updates == 3
    assert all(torch.equal(p, q) for p, q in zip(*(agent.parameters() for agent in agents), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(*map(slots, agents), strict=True))


def test_unasked_what_cannot_be_compiled_is_left_as_it_is(monkeypatch):
    for name, wanted in (("wgcsl", {}), ("sac", {"surgery": "pcgrad"})):
        agent = fresh(name, "two tasks", **wanted)
        agent.compile_update(optional=True)
        assert not isinstance(agent.update, Compiled)
    monkeypatch.setattr(compiled, "compiler", lambda: None)
    agent = fresh("sac", "two tasks")
    agent.compile_update(optional=True)
    assert not isinstance(agent.update, Compiled)
