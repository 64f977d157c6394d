"""The registry: an algorithm is one file and one line here."""

from __future__ import annotations

from gcrl.agents.actionable import Actionable
from gcrl.agents.agent import Agent
from gcrl.agents.algaedice import AlgaeDICE
from gcrl.agents.awac import AWAC
from gcrl.agents.awr import AWR
from gcrl.agents.bc import BC
from gcrl.agents.bcq import BCQ
from gcrl.agents.bear import BEAR
from gcrl.agents.brac import BRACp, BRACv
from gcrl.agents.calql import CalQL
from gcrl.agents.cql import CQL
from gcrl.agents.crl import CRL
from gcrl.agents.crr import CRR
from gcrl.agents.ddpg import DDPG
from gcrl.agents.double_dqn import DoubleDQN
from gcrl.agents.dqn import DQN
from gcrl.agents.dt import DT
from gcrl.agents.dueling_dqn import DuelingDQN
from gcrl.agents.edac import EDAC
from gcrl.agents.fqi import FQI
from gcrl.agents.gcbc import GCBC
from gcrl.agents.gciql import GCIQL
from gcrl.agents.gcivl import GCIVL
from gcrl.agents.hiql import HIQL
from gcrl.agents.iql import IQL
from gcrl.agents.qrl import QRL
from gcrl.agents.rebrac import ReBRAC
from gcrl.agents.rem import REM
from gcrl.agents.rem_dqn import REMDQN
from gcrl.agents.sac import SAC
from gcrl.agents.sacn import SACN
from gcrl.agents.td3 import TD3
from gcrl.agents.td3bc import TD3BC
from gcrl.agents.uwac import UWAC
from gcrl.agents.wgcsl import WGCSL

AGENTS: dict[str, type[Agent]] = {
    "ddpg": DDPG,
    "td3": TD3,
    "sac": SAC,
    "dqn": DQN,
    "double-dqn": DoubleDQN,
    "dueling-dqn": DuelingDQN,
    "rem-dqn": REMDQN,
    "fqi": FQI,
    "bc": BC,
    "td3bc": TD3BC,
    "rebrac": ReBRAC,
    "bcq": BCQ,
    "bear": BEAR,
    "brac-p": BRACp,
    "brac-v": BRACv,
    "cql": CQL,
    "calql": CalQL,
    "sacn": SACN,
    "edac": EDAC,
    "rem": REM,
    "uwac": UWAC,
    "awr": AWR,
    "awac": AWAC,
    "crr": CRR,
    "iql": IQL,
    "algaedice": AlgaeDICE,
    "dt": DT,
    "gcbc": GCBC,
    "wgcsl": WGCSL,
    "gcivl": GCIVL,
    "gciql": GCIQL,
    "hiql": HIQL,
    "qrl": QRL,
    "crl": CRL,
    "actionable": Actionable,
}

__all__ = ["AGENTS", "Agent"]
