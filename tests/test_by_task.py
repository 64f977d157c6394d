"""What a loss divides by is of a row's own task: beside the rows of any other, a task's rows count as they do alone."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch

from gcrl.agents.by_task import greatest, means, sums, unit
from tests import test_losses_goals, test_losses_values, test_losses_weighted
from tests.problems import mean_by_task

TASK = torch.tensor([2, 0, 2, 2, 0, 3])  # none is of task 1
X = torch.tensor([1.0, -2.0, 3.0, -7.0, 5.0, 0.5], dtype=torch.float64)


def test_sums_and_greatest_are_over_the_rows_of_a_task():
    assert sums(X, TASK, 4).tolist() == [-3, 3, -3, -3, 3, 0.5]
    assert means(X, TASK, 4).tolist() == [-1, 1.5, -1, -1, 1.5, 0.5] == mean_by_task(X.numpy(), TASK).tolist()
    assert greatest(X, TASK, 4).tolist() == [3, 5, 3, 3, 5, 0.5]


def test_of_one_task_they_are_over_all():
    none = torch.zeros(6, dtype=torch.int64)
    assert sums(X, none, 1).tolist() == [0.5] * 6 and greatest(X, none, 1).tolist() == [5] * 6
    assert means(X, none, 1).tolist() == [0.5 / 6] * 6


def test_the_size_is_a_constant():
    q = X.clone().requires_grad_()
    unit(q, TASK, 4).sum().backward()
    np.testing.assert_allclose(q.grad, 1 / mean_by_task(X.abs().numpy(), TASK))


values, weighted, goals = test_losses_values, test_losses_weighted, test_losses_goals
CASES = {
    "td3bc": (values.made, values.data, {}),
    "rebrac": (values.made, lambda: values.segment(values.data(), 2), {}),
    "uwac": (values.made, values.data, {"dropout": 0.0}),
    "awac": (weighted.made, weighted.data, {"temperature": 0.3}),
    "awr": (weighted.made, weighted.segment, {}),
    "gciql": (goals.made, goals.data, {}),
    "qrl": (goals.made, goals.data, {}),
    "crl": (goals.made, goals.data, {}),
}


def slope(agent, b):
    """The gradient of the actor's loss in the actor, in one row."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(agent.actor_loss(b), [*agent.actor.parameters()])])


@pytest.mark.parametrize("name", CASES)
def test_the_slope_of_two_tasks_is_the_mean_of_theirs(name):
    make, data, changes = CASES[name]
    agent, b = make(name, **changes), data()
    b.obs[b.task == 1] += 3  # values of another size
    alone = [type(b)(*(x[b.task == task] for x in b)) for task in range(2)]
    rows = [own.counts.sum() if name == "awr" else len(own.obs) for own in alone]
    with mock.patch.object(torch, "randn", torch.zeros):  # AWAC's policy as if it drew its mean
        wanted = sum(n * slope(agent, own) for n, own in zip(rows, alone, strict=True)) / sum(rows)
        torch.testing.assert_close(slope(agent, b), wanted)
        agent.spec = dataclasses.replace(agent.spec, bounds=agent.spec.bounds[:1])  # all rows as of one: another slope
        assert (slope(agent, b) - wanted).abs().max() > 1e-3 * wanted.abs().max()
