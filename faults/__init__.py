"""Break a running, unmodified process for real, prove that it is broken, and give it back."""

from faults.armed import Fault
from faults.catalogue import catalogue
from faults.controller import Controller
from faults.errors import (
    ArmFailed,
    BadParameter,
    BadTrigger,
    BrokenPlugin,
    FaultsError,
    LaunchFailed,
    LeaseTooLong,
    NeverHit,
    NoSuchProcess,
    NotAnswered,
    NotArmed,
    NotOpen,
    ProcessGone,
    SessionError,
    UnknownFault,
    UnknownParameter,
    UnknownSelector,
    UnknownSite,
)
from faults.launch import Launched
from faults.model import (
    DEFAULT_LEASE_S,
    LEASE_LIMIT_S,
    FaultInfo,
    FaultStatus,
    ParameterInfo,
    ProcessInfo,
    Selector,
    State,
)

__all__ = [
    "DEFAULT_LEASE_S",
    "LEASE_LIMIT_S",
    "ArmFailed",
    "BadParameter",
    "BadTrigger",
    "BrokenPlugin",
    "Controller",
    "Fault",
    "FaultInfo",
    "FaultStatus",
    "FaultsError",
    "LaunchFailed",
    "Launched",
    "LeaseTooLong",
    "NeverHit",
    "NoSuchProcess",
    "NotAnswered",
    "NotArmed",
    "NotOpen",
    "ParameterInfo",
    "ProcessGone",
    "ProcessInfo",
    "Selector",
    "SessionError",
    "State",
    "UnknownFault",
    "UnknownParameter",
    "UnknownSelector",
    "UnknownSite",
    "catalogue",
]
