"""Break a running, unmodified process for real, prove that it is broken, and restore it."""

from faults.agent.wedge_agent.unpatched import THREAD_NAME as AGENT_THREAD_NAME
from faults.catalogue import catalogue, fault_info
from faults.controller import Controller, validate
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
from faults.fault import Fault
from faults.launch import Launched
from faults.model import (
    DEFAULT_LEASE_S,
    LEASE_LIMIT_S,
    FaultInfo,
    FaultStatus,
    Frame,
    ParameterInfo,
    ProcessInfo,
    Selector,
    State,
    Thread,
    ThreadStack,
)
from faults.processes import tell_apart
from faults.procfs import thread_run_delays_ns
from faults.stacks import format_stacks, process_stacks

__all__ = [
    "AGENT_THREAD_NAME",
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
    "Frame",
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
    "Thread",
    "ThreadStack",
    "UnknownFault",
    "UnknownParameter",
    "UnknownSelector",
    "UnknownSite",
    "catalogue",
    "fault_info",
    "format_stacks",
    "process_stacks",
    "tell_apart",
    "thread_run_delays_ns",
    "validate",
]
