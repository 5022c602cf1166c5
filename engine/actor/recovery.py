"""Taking up a run whose owner died: attempts in flight are lost, timers are set again, children are looked for."""

import asyncio
from functools import partial

from core.errors import StepError
from core.ids import RunId
from core.run import NO_ITEM, EventType, StepStatus
from engine.actor.conduct import Conduct
from engine.actor.waits import Waits
from engine.attempt import Attempt
from engine.elements import Elements
from engine.node.version import Lane
from engine.patience import patiently
from engine.state import TaskState
from engine.timers import TaskKey


async def recover(actor: Conduct) -> None:
    """Take the run up. Raises Fenced, and Unavailable when what it stands on cannot be read."""
    state = actor.state
    actor.log.emit(EventType.RUN_RECOVERED, data={"recoveries": state.recoveries + 1})
    # First each attempt in flight gets its end, or is known to go on: the run may fail with any of them, and then
    # none must be left without an end.
    given_up: list[str] = []
    for step_id, step in state.steps.items():
        for item, task in step.tasks.items():
            if _take_up(actor, step_id, item, task) and item == NO_ITEM:
                given_up.append(step_id)
    for step_id, step in state.steps.items():
        if step.size is not None and not step.status.final and not state.status.final:
            await _take_up_elements(actor, step_id)
    for step_id in given_up:
        if not state.status.final:
            actor.step_settled(step_id)
    # Counted for good before anything runs again: what runs next may be what kills the process.
    commit = actor.log.flush()
    assert commit is not None
    await commit.wait()
    if not state.status.final:
        await actor.admission.tidy()
        await _withdraw(actor)
        await _rejoin(actor)
        await actor.children.cancel_abandoned()
        actor.admission.seek_room()


def _take_up(actor: Conduct, step_id: str, item: int, task: TaskState) -> bool:
    """Take up one task; says whether it failed now because it was lost too often."""
    if task.status is StepStatus.RUNNING:
        if task.remote or task.children is not None:
            return False  # it goes on elsewhere: see `_rejoin`
        return actor.lose(_known(actor, step_id, item, task), task)
    if task.status is StepStatus.WAITING:
        _take_up_waiting(actor, step_id, item, task)
    elif task.status is StepStatus.QUEUED and actor.state.steps[step_id].status is not StepStatus.QUEUED:
        actor.again.append((step_id, item))  # an element; a whole step is started by the plan
    return False


def _take_up_waiting(actor: Conduct, step_id: str, item: int, task: TaskState) -> None:
    if task.wait is not None:
        attempt = _known(actor, step_id, item, task)
        if "plan" in task.wait:
            actor.expansion.resume(attempt, task)
        else:
            actor.waits.resume(attempt, task)
    elif task.attempt_at is not None:
        actor.running[step_id, item] = (_known(actor, step_id, item, task), None)
    elif task.due_at is None:
        actor.again.append((step_id, item))  # it waited for room
    if task.due_at is not None:
        actor.set_timer(step_id, item)


def _known(actor: Conduct, step_id: str, item: int, task: TaskState) -> Attempt:
    return actor.env.attempts.known(actor.program.steps[step_id], actor.program, step_id, item, task)


async def _take_up_elements(actor: Conduct, step_id: str) -> None:
    """The list of a `foreach` is stored only where it could be another one now: else it is made again."""
    step, state = actor.program.steps[step_id], actor.state.steps[step_id]
    assert step.foreach is not None
    try:
        found = (
            state.values if state.values is not None else await actor.env.attempts.resolve(step.foreach, actor.state)
        )
        actor.elements[step_id] = Elements.of(found, step.step.concurrency, state.tasks)
    except StepError as error:
        actor.fail(error)
        return
    failed = next((task for task in state.tasks.values() if task.status is StepStatus.FAILED), None)
    actor.settle_elements(step_id, failed)


async def _withdraw(actor: Conduct) -> None:
    """Have workers stop what the last owner had given up, if it did not come to that."""
    remote, state = actor.env.parts.remote, actor.state

    def over(step_id: str, item: int, number: int) -> bool:
        # An attempt that the journal does not know is pure, and about to be made again as the same task.
        step = state.steps.get(step_id)
        if step is None:
            return True
        task = step.tasks.get(item)
        if task is None:  # it was told to run again
            return number <= (step.past or {}).get(item, 0)
        return number < task.attempts or (number == task.attempts and not task.remote)

    if remote is not None:
        await patiently(partial(remote.withdraw_of, state.record.id, over), "tasks of a lost owner")


async def _rejoin(actor: Conduct) -> None:
    """Find again what went on without this run's owner: attempts in workers, children, and events that came."""
    state = actor.state
    keys: list[TaskKey] = [
        (step_id, item)
        for step_id, step in state.steps.items()
        for item, task in step.tasks.items()
        if task.status is StepStatus.RUNNING and (step_id, item) not in actor.running
    ]
    promised = [
        child.id
        for step_id, item in keys
        for child in (state.steps[step_id].tasks[item].children or {}).values()
        if not child.status.final
    ]
    fallback = actor.rescue.outstanding()
    if fallback is not None:
        promised.append(fallback[0])
    there = frozenset[RunId]()
    if promised:
        there = await patiently(partial(actor.env.launcher.existing, promised), "children of a lost owner")
    for step_id, item in keys:
        await _rejoin_task(actor, step_id, item, there)
    if fallback is not None:
        await actor.rescue.resume(fallback[0] in there)
    await _look_back(actor.waits, [one for one, _ in actor.running.values() if one.lane is Lane.WAIT])


async def _rejoin_task(actor: Conduct, step_id: str, item: int, there: frozenset[RunId]) -> None:
    task = actor.state.steps[step_id].tasks[item]
    element = actor.elements[step_id].value(item) if item != NO_ITEM else None
    try:
        attempts = actor.env.attempts
        if task.given is not None:
            attempt = attempts.composed(actor.program.steps[step_id], actor.program, step_id, item, task)
        else:
            attempt = await attempts.prepare(
                actor.program, actor.state, step_id, item, task.attempts, element, again=task
            )
    except StepError:
        actor.lose(_known(actor, step_id, item, task), task)
        return
    if task.children is not None:
        reserved = {
            index: child.id
            for index, child in task.children.items()
            if not child.status.final and child.id not in there
        }
        actor.running[step_id, item] = (attempt, None)
        actor.children.begin(attempt, reserved)
    else:
        actor.running[step_id, item] = (attempt, asyncio.create_task(actor.run_attempt(attempt, None)))
    if task.due_at is not None:
        actor.set_timer(step_id, item)


async def _look_back(waits: Waits, attempts: list[Attempt]) -> None:
    for attempt in attempts:
        await waits.missed(attempt)
