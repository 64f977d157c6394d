"""The registry: an algorithm is one file and one line here."""

from __future__ import annotations

from gcrl.agents.agent import Agent
from gcrl.agents.ddpg import DDPG
from gcrl.agents.sac import SAC
from gcrl.agents.td3 import TD3

AGENTS: dict[str, type[Agent]] = {
    "ddpg": DDPG,
    "td3": TD3,
    "sac": SAC,
}

__all__ = ["AGENTS", "Agent"]
