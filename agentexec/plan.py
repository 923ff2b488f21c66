"""The plan as a checked list: read from messages, ticked off as steps are done, replaced by a new one."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from agentexec.events import Event, MessageAdded, PlanUpdated, Step
from agentexec.log import EventLog

_ITEM = re.compile(r"^ {0,3}(?:[-*+]|(\d{1,3})[.)])\s+(?:\[([ xX✓])\]\s*)?(\S.*?)\s*$", re.MULTILINE)
_DONE = re.compile(
    r"^[ *_`#>-]*DONE:[ *_`]*(?:steps?\s+)?((?:\d{1,3}[\s,]*(?:and\s+)?)+)", re.MULTILINE | re.IGNORECASE
)
_FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
MOST_STEPS = 50


def read_steps(text: str) -> tuple[Step, ...]:
    """Return the list in a text: `1. Step`, `- [x] Step`; fences apart. Bullets count if nothing else is there."""
    items = _ITEM.findall(_FENCE.sub("", text))
    for wanted in (lambda i: i[0] or i[1], lambda i: True):
        if found := [item for item in items if wanted(item)]:
            return tuple(Step(text=words, done=box in ("x", "X", "✓")) for _, box, words in found[:MOST_STEPS])
    return ()


class Plan(BaseModel):
    """A plan as it stands: a fold over the messages of a run.

    Attributes:
        steps: In order.
        authors: Whose messages may set the plan; everybody's but theirs and the executor's can only tick steps off.
    """

    model_config = ConfigDict(frozen=True)

    steps: tuple[Step, ...] = ()
    authors: frozenset[str] = frozenset({"planner", "human"})

    def after(self, event: Event) -> Plan:
        """Return the plan after an event.

        An author's list replaces it; steps of the same words stay done. Others tick steps off with a line
        `DONE: 2`, or by writing the list with `[x]`.
        """
        if not isinstance(event, MessageAdded) or event.team or event.message.sender in ("task", "executor"):
            return self
        steps = read_steps(event.message.content)
        if event.message.sender in self.authors:
            done = {_key(step.text) for step in self.steps if step.done}
            kept = tuple(step.model_copy(update={"done": step.done or _key(step.text) in done}) for step in steps)
            return self.model_copy(update={"steps": kept}) if kept else self
        if not self.steps:
            return self
        text = _FENCE.sub("", event.message.content)
        ticked = {int(n) - 1 for numbers in _DONE.findall(text) for n in re.findall(r"\d+", numbers)}
        named = {_key(step.text) for step in steps if step.done}
        return self.model_copy(
            update={
                "steps": tuple(
                    step.model_copy(update={"done": True}) if n in ticked or _key(step.text) in named else step
                    for n, step in enumerate(self.steps)
                )
            }
        )


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def follow_plan(log: EventLog) -> None:
    """Append `PlanUpdated` to a log whenever the plan in its messages changes."""
    plan = Plan()
    for event in log:
        plan = plan.after(event)

    def listen(event: Event) -> None:
        nonlocal plan
        before, plan = plan, plan.after(event)
        if plan.steps != before.steps:
            log.append(PlanUpdated(steps=plan.steps))

    log.subscribe(listen, (MessageAdded,))
