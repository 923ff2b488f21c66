"""When a run ends without an answer. Conditions are values, and combine with `&` and `|`.

    stop = MaxTurns(20) | Deadline(600) | (Stall() & MaxTokens(100_000))

A condition holds no state of its own: it is a fold over the events of a run (`start`, `step`) and a
judgement of what was folded (`check`). So a turn costs the same however long the conversation is, one
condition serves many runs at once, and folding a stored log again tells where a resumed run stands.
"""

from agentexec.stops.base import AllOf, AnyOf, AnyStop, Stop, StopCondition, StopWatch
from agentexec.stops.limits import Deadline, MaxCost, MaxMessages, MaxTokens, MaxTurns
from agentexec.stops.progress import ConsecutiveFailures, RepeatedCode, RepeatedError, Stall
from agentexec.stops.signals import ExternalStop, HandedTo, SourceSpoke, StopWhen, TextSeen

__all__ = [
    "AllOf",
    "AnyOf",
    "AnyStop",
    "ConsecutiveFailures",
    "Deadline",
    "ExternalStop",
    "HandedTo",
    "MaxCost",
    "MaxMessages",
    "MaxTokens",
    "MaxTurns",
    "RepeatedCode",
    "RepeatedError",
    "SourceSpoke",
    "Stall",
    "Stop",
    "StopCondition",
    "StopWatch",
    "StopWhen",
    "TextSeen",
]
