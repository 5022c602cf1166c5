"""Random workflows, and a run of one driven through plan and fold with a scripted outcome and a drawn interleaving."""

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from hypothesis import strategies as st

from core.ids import RunId, StepId, WorkflowId, Workspace
from core.run import NO_ITEM, EventType, RunEvent, RunRecord, RunStatus, StepStatus
from engine.fold import apply
from engine.graph import Graph, StepLinks, build
from engine.plan import Move, all_moves, fatal_step, moves_after
from engine.state import RunState, fresh

START = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = RunRecord(
    id=RunId(uuid.UUID(int=1)),
    workspace=Workspace("default"),
    workflow_id=WorkflowId(uuid.UUID(int=2)),
    workflow="simulated",
    workflow_version=1,
    created_at=START,
    input={},
    context={},
    pins={},
)


@dataclass(frozen=True)
class Script:
    """What a step will do: `tries` is for each task the ends of its attempts, the last one final.

    An end is `ok`, `fail`, `retry`, `lost`, or `ask` (a person then says what follows: the next entry). Attempts that
    are not announced run inline: they end in the turn in which they begin, and only the end is in the journal.
    """

    runs: bool = True
    announced: bool = True
    size: int | None = None
    tries: tuple[tuple[str, ...], ...] = (("ok",),)


@dataclass(frozen=True)
class World:
    links: tuple[StepLinks, ...]
    scripts: dict[str, Script]

    @property
    def graph(self) -> Graph:
        return build(self.links)


def has_cycle(edges: dict[str, set[str]]) -> bool:
    """Oracle: take away steps that wait for nothing until none is left or none can be taken."""
    edges = {step: set(before) for step, before in edges.items()}
    while edges:
        free = {step for step, before in edges.items() if not before & edges.keys()}
        if not free:
            return True
        edges = {step: before for step, before in edges.items() if step not in free}
    return False


def wanted_waits(links: tuple[StepLinks, ...]) -> dict[str, set[str]]:
    """Oracle for the edges: what a step uses or rescues, each together with the whole chain of its fallbacks."""
    by_id = {one.id: one for one in links}
    waits: dict[str, set[str]] = {}
    for one in links:
        direct = set(one.needs) | {other.id for other in links if other.fallback == one.id}
        reached: set[str] = set()
        while direct:
            step = direct.pop()
            reached.add(step)
            fallback = by_id[step].fallback
            if fallback is not None and fallback != one.id and fallback not in reached:
                direct.add(fallback)
        waits[one.id] = reached
    return waits


def _ends(on_the_way: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    last = st.sampled_from(["ok", "ok", "fail"])
    return st.tuples(st.lists(st.sampled_from(on_the_way), max_size=2), last).map(lambda drawn: (*drawn[0], drawn[1]))


_ENDS = _ends(["retry", "lost", "ask"])
_INLINE_ENDS = _ends(["retry"])


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    size = draw(st.sampled_from([None, None, None, 0, 1, 3]))
    announced = draw(st.booleans())
    ends = _ENDS if announced else _INLINE_ENDS
    tries = tuple(draw(ends) for _ in range(1 if size is None else size))
    return Script(draw(st.sampled_from([True, True, True, False])), announced, size, tries)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Acyclic workflows with fallbacks, joins, conditions and foreach."""
    ids = [f"s{index}" for index in range(draw(st.integers(1, 8)))]
    order = draw(st.permutations(ids))
    links: dict[str, StepLinks] = {}
    for index, step in enumerate(order):
        needs = draw(st.frozensets(st.sampled_from(order[:index]), max_size=3)) if index else frozenset()
        joins = draw(st.sampled_from([False, False, True]))
        quorum = draw(st.none() | st.integers(1, 3)) if joins else None
        links[step] = StepLinks(step, needs, None, draw(st.booleans()), joins, quorum)
    for step in draw(st.lists(st.sampled_from(ids), max_size=3, unique=True)):
        fallback = draw(st.sampled_from(ids))
        plain = links[step]
        links[step] = replace(plain, fallback=fallback, continues=False)
        if fallback == step or has_cycle(wanted_waits(tuple(links.values()))):
            links[step] = plain
    return World(tuple(links[step] for step in ids), {step: draw(scripts()) for step in ids})


@dataclass
class Simulation:
    """Drives one run. `check` is called after each event."""

    world: World
    chance: random.Random
    stop_when_fatal: bool = True
    events: list[RunEvent] = field(default_factory=list)
    ready: list[tuple[str, Move]] = field(default_factory=list)
    flying: dict[tuple[str, int], int] = field(default_factory=dict)
    sleeping: dict[tuple[str, int], int] = field(default_factory=dict)
    asking: dict[tuple[str, int], int] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    doomed: bool = False

    def __post_init__(self) -> None:
        self.graph = self.world.graph
        fallbacks = {one.id: one.fallback for one in self.world.links if one.fallback}
        self.state = fresh(RECORD, [one.id for one in self.world.links], fallbacks)
        self.waits = wanted_waits(self.world.links)

    def run(self) -> RunState:
        self.emit(EventType.RUN_CREATED)
        self.ready = all_moves(self.graph, self.state)
        while not self.doomed and (choices := self._choices()):
            kind, what = self.chance.choice(choices)
            getattr(self, f"_{kind}")(what)
            if not self.doomed:
                self.check()
        return self.state

    def _choices(self) -> list[tuple[str, object]]:
        return [
            *(("move", one) for one in self.ready),
            *(("end", one) for one in self.flying),
            *(("wake", one) for one in self.sleeping),
            *(("answer", one) for one in self.asking),
        ]

    def check(self) -> None:
        """What holds after every event."""
        state = self.state
        assert sorted(self.ready) == sorted(all_moves(self.graph, state)), "moves_after misses or invents a move"
        assert state.open == sum(not step.status.final for step in state.steps.values())
        assert state.active == len(self.flying)
        assert state.asleep == len(self.sleeping) + len(self.asking)
        busy = self.ready or self.flying or self.sleeping or self.asking
        assert busy or all(step.status.final for step in state.steps.values()), "the run is stuck"
        assert state.status is (RunStatus.WAITING if state.asleep and not state.active else RunStatus.RUNNING)
        for step_id, step in state.steps.items():
            asked = any(one == step_id for one, _ in self.asking)
            assert (step.status is StepStatus.OUTCOME_UNKNOWN) == asked

    def emit(self, kind: EventType, step: str | None = None, item: int = NO_ITEM, attempt: int = 0, **more: object):
        seq = len(self.events) + 1
        payload = more.pop("payload", None)
        step_id = None if step is None else StepId(step)
        event = RunEvent(RECORD.id, seq, kind, START + timedelta(seconds=seq), step_id, item, attempt, more, payload)
        self.events.append(event)
        apply(self.state, event)

    def _script(self, task: tuple[str, int]) -> Script:
        return self.world.scripts[task[0]]

    def _move(self, move: tuple[str, Move]) -> None:
        self.ready.remove(move)
        step, what = move
        assert step not in self.moved, f"{step} was moved twice"
        self.moved.append(step)
        if what is Move.SKIP or not self._has_quorum(step):
            for other in self.waits[step]:
                assert self.state.steps[other].status.final, f"{step} moves before {other} is settled"
        script = self.world.scripts[step]
        if what is Move.SKIP or not script.runs:
            self.emit(EventType.STEP_SKIPPED, step, reason="planned" if what is Move.SKIP else "when")
            self._settled(step)
        elif script.size is None:
            self._begin((step, NO_ITEM), 1)
        else:
            self.emit(EventType.FOREACH_EXPANDED, step, size=script.size)
            for item in self.chance.sample(range(script.size), script.size):
                self._begin((step, item), 1)
            self._finish_foreach(step)

    def _has_quorum(self, step: str) -> bool:
        node = self.graph.nodes[step]
        if node.links.quorum is None or node.rescues:
            return False
        completed = [one for one in node.links.needs if self.state.steps[one].status is StepStatus.COMPLETED]
        return len(completed) >= node.links.quorum

    def _begin(self, task: tuple[str, int], attempt: int) -> None:
        if self._script(task).announced:
            self.emit(EventType.ATTEMPT_STARTED, *task, attempt, effect="pure")
            self.flying[task] = attempt
        else:
            self.flying[task] = attempt
            self._end(task)

    def _end(self, task: tuple[str, int]) -> None:
        attempt = self.flying.pop(task)
        end = self._script(task).tries[max(task[1], 0)][attempt - 1]
        error = {"class": "network", "message": f"{task} attempt {attempt}"}
        if end == "ok":
            self.emit(EventType.ATTEMPT_SUCCEEDED, *task, attempt, payload=f"{task} done")
            self._task_settled(task)
        elif end == "fail":
            self.emit(EventType.ATTEMPT_FAILED, *task, attempt, error=error, next="fail")
            self._task_settled(task)
        elif end == "ask":
            self.emit(EventType.ATTEMPT_FAILED, *task, attempt, error=error, next="ask", lost=True)
            self.asking[task] = attempt
        else:
            due = (START + timedelta(days=1)).isoformat()
            self.emit(
                EventType.ATTEMPT_FAILED, *task, attempt, error=error, next="retry", retry_at=due, lost=end == "lost"
            )
            self.sleeping[task] = attempt

    def _wake(self, task: tuple[str, int]) -> None:
        self._begin(task, self.sleeping.pop(task) + 1)

    def _answer(self, task: tuple[str, int]) -> None:
        attempt = self.asking.pop(task)
        verdict = {"ok": "succeeded", "fail": "failed"}.get(self._script(task).tries[max(task[1], 0)][attempt], "retry")
        self.emit(
            EventType.STEP_RESOLVED, *task, outcome=verdict, payload=f"{task} done" if verdict == "succeeded" else None
        )
        if verdict == "retry":
            self._begin(task, attempt + 1)
        else:
            self._task_settled(task)

    def _task_settled(self, task: tuple[str, int]) -> None:
        step, item = task
        if item == NO_ITEM:
            self._settled(step)
        else:
            self._finish_foreach(step)

    def _finish_foreach(self, step: str) -> None:
        state = self.state.steps[step]
        if state.status.final or state.finished != state.size:
            return
        failed = [ends[-1] for ends in self.world.scripts[step].tries].count("fail")
        if failed and not self.graph.nodes[step].links.continues:
            self.emit(EventType.STEP_FAILED, step, error={"class": "network", "message": f"{failed} failed"})
        else:
            self.emit(EventType.STEP_COMPLETED, step)
        self._settled(step)

    def _settled(self, step: str) -> None:
        if self.stop_when_fatal and (fatal := fatal_step(self.graph, self.state, [step])) is not None:
            self.emit(EventType.RUN_FAILED, error=self.state.steps[fatal].error)
            self.doomed = True
            return
        self.ready += moves_after(self.graph, self.state, [step])


@dataclass
class Wild:
    """Any sequence of events that a run can have, drawn one after the other; no plan behind it.

    It is for what the fold must hold by itself: the counts, and that a replay gives the same.
    """

    chance: random.Random
    events: list[RunEvent] = field(default_factory=list)
    serial: int = 0

    def __post_init__(self) -> None:
        self.state = fresh(RECORD, ["a", "b", "c", "d"], {"a": "b"})
        self.emit(EventType.RUN_CREATED, **({"queued": {"reason": "limit"}} if self.chance.random() < 0.2 else {}))

    def run(self, length: int) -> RunState:
        for _ in range(length):
            self.chance.choice(self._choices())()
            self.check()
        return self.state

    def check(self) -> None:
        """What holds after every event."""
        state = self.state
        tasks = [task for step in state.steps.values() for task in step.tasks.values()]
        standing = [step for step in state.steps.values() if step.waiting is not None]
        asleep = [task for task in tasks if task.status in (StepStatus.WAITING, StepStatus.OUTCOME_UNKNOWN)]
        assert state.open == sum(not step.status.final for step in state.steps.values())
        assert state.active == sum(task.status is StepStatus.RUNNING for task in tasks)
        assert state.asleep == len(asleep) + len(standing)
        assert set(state.view) == set(state.steps)
        assert all(state.view[one]["status"] == step.status for one, step in state.steps.items() if step.status.final)
        if state.status.final:
            assert (state.open, state.active, state.asleep) == (0, 0, 0)
            assert state.finished_at is not None
            assert not any(task.due_at for task in tasks)
        else:
            assert state.finished_at is None
            assert (state.status is RunStatus.PAUSED) == (state.paused and not state.queued)

    def emit(
        self,
        kind: EventType,
        step: str | None = None,
        item: int = NO_ITEM,
        attempt: int = 0,
        payload: object = None,
        told: dict[str, object] | None = None,
        **more: object,
    ) -> None:
        more.update(told or {})
        seq = len(self.events) + 1
        step_id = None if step is None else StepId(step)
        event = RunEvent(RECORD.id, seq, kind, START + timedelta(seconds=seq), step_id, item, attempt, more, payload)
        self.events.append(event)
        apply(self.state, event)

    def _choices(self) -> list[Callable[[], None]]:
        state = self.state
        if state.status.final:
            return [self._redrive]
        found: list[Callable[[], None]] = [self._run_wide, self._run_wide, self._redrive, self._end]
        for name, step in state.steps.items():
            if step.status is StepStatus.QUEUED:
                found += [partial(self._begin, name), partial(self._begin, name), partial(self._skip, name)]
            elif step.waiting is not None:
                found.append(partial(self._proceed, name))
                continue
            for item, task in step.tasks.items():
                if not task.status.final and not step.status.final:
                    found += [partial(self._task, name, item)] * 3
        return found

    def _run_wide(self) -> None:
        state = self.state
        if state.queued:
            self.emit(EventType.RUN_ADMITTED)
        elif state.paused:
            self.emit(EventType.RUN_RESUMED)
        else:
            kind = self.chance.choice(["pause", "breakpoints", "signal", "variable", "patch", "recover", "fallback"])
            getattr(self, f"_{kind}")()

    def _pause(self) -> None:
        self.emit(EventType.RUN_PAUSED, command=self._name())

    def _breakpoints(self) -> None:
        self.emit(EventType.BREAKPOINTS_SET, steps=self.chance.sample(list(self.state.steps), 1))

    def _signal(self) -> None:
        self.emit(EventType.SIGNAL_RECEIVED, command=self._name(), name="go", payload=self.serial)

    def _variable(self) -> None:
        self.emit(EventType.VARIABLE_SET, "a", payload=self.serial, name="x", scope="run")

    def _recover(self) -> None:
        self.emit(EventType.RUN_RECOVERED, recoveries=self.state.recoveries + 1)

    def _fallback(self) -> None:
        if self.state.failing is None and not self.state.active and self.chance.random() < 0.2:
            run_id = str(uuid.UUID(int=self._number()))
            self.emit(EventType.FALLBACK_STARTED, run_id=run_id, workflow="f", version=1, error={"class": "x"})

    def _patch(self) -> None:
        """Take away a step that has not begun, and add one."""
        queued = [one for one, step in self.state.steps.items() if step.status is StepStatus.QUEUED]
        gone = self.chance.choice([*queued, None])
        steps = [{"id": one} for one in self.state.steps if one != gone] + [{"id": f"n{self._number()}"}]
        self.emit(EventType.GRAPH_PATCHED, payload={"spec": {"steps": steps}, "pins": {}})

    def _redrive(self) -> None:
        state = self.state
        if not state.status.final and state.failing is not None:
            return
        steps = self.chance.sample(list(state.steps), self.chance.randint(1, len(state.steps)))
        if not state.status.final:
            for name in steps:
                self._give_up(name)
        edited = {"n": self.serial} if self.chance.random() < 0.5 else None
        self.emit(EventType.STEP_REDRIVEN, steps[0], steps=steps, command=self._name(), payload=edited)

    def _give_up(self, name: str) -> None:
        for item, task in self.state.steps[name].tasks.items():
            if task.attempt_at is not None:
                self.emit(EventType.ATTEMPT_CANCELLED, name, item, task.attempts)

    def _end(self) -> None:
        if self.chance.random() < 0.7:
            return
        kind = self.chance.choice([EventType.RUN_COMPLETED, EventType.RUN_FAILED, EventType.RUN_CANCELLED])
        for name in self.state.steps:
            self._give_up(name)
        self.emit(kind, error={"class": "x"})

    def _skip(self, name: str) -> None:
        self.emit(EventType.STEP_SKIPPED, name, reason="drawn")

    def _proceed(self, name: str) -> None:
        self.emit(EventType.BREAKPOINT_PASSED, name, mode=self.chance.choice(["continue", "step"]), payload={"n": 1})

    def _begin(self, name: str) -> None:
        kind = self.chance.choice(["start", "start", "gate", "break", "each"])
        if kind == "break":
            self.emit(EventType.STEP_WAITING, name, reason="breakpoint")
        elif kind == "each":
            self.emit(EventType.FOREACH_EXPANDED, name, size=3)
            for item in range(3):
                self._start(name, item)
        elif kind == "gate":
            self.emit(EventType.STEP_WAITING, name, reason="concurrency_limit", detail="full")
        else:
            self._start(name, NO_ITEM)

    def _start(self, name: str, item: int) -> None:
        step = self.state.steps[name]
        task = step.tasks.get(item)
        number = (task.attempts if task else (step.past or {}).get(item, 0)) + 1
        due = (START + timedelta(days=1)).isoformat()
        what: dict[str, object] = self.chance.choice(
            [{}, {}, {"due_at": due}, {"wait": {"kind": "event", "name": "e"}}, {"children": True}, {"remote": True}]
        )
        if "children" in what and self.chance.random() < 0.5:
            what = {**what, "due_at": due}
        self.emit(EventType.ATTEMPT_STARTED, name, item, number, effect="pure", **what)

    def _task(self, name: str, item: int) -> None:
        step = self.state.steps[name]
        task = step.tasks[item]
        if task.status is StepStatus.OUTCOME_UNKNOWN:
            outcome = self.chance.choice(["succeeded", "failed", "retry"])
            self.emit(EventType.STEP_RESOLVED, name, item, task.attempts, outcome=outcome)
        elif task.attempt_at is None:
            self._start(name, item)
        elif task.children is not None and self.chance.random() < 0.5:
            self._child(name, item)
        else:
            self._attempt(name, item, task.attempts)
        if step.size is not None and step.finished == step.size and not step.status.final:
            self.emit(EventType.STEP_COMPLETED, name)

    def _child(self, name: str, item: int) -> None:
        children = self.state.steps[name].tasks[item].children or {}
        index = self.chance.randint(0, 2)
        if index in children and not children[index].status.final:
            status = self.chance.choice(["completed", "failed", "cancelled"])
            self.emit(EventType.CHILD_ENDED, name, item, index=index, status=status, cost_usd=1.0)
        else:
            self.emit(EventType.CHILD_STARTED, name, item, index=index, run_id=str(uuid.UUID(int=self._number())))

    def _attempt(self, name: str, item: int, number: int) -> None:
        error = {"class": "network", "message": "drawn"}
        due = (START + timedelta(days=1)).isoformat()
        kind = self.chance.choice(["ok", "ok", "fail", "retry", "ask", "note", "plan", "arm"])
        if kind == "ok":
            told = {"signal": self.state.signals[0].id} if self.state.signals else {}
            self.emit(EventType.ATTEMPT_SUCCEEDED, name, item, number, payload=number, trace={"cost_usd": 1.0}, **told)
        elif kind == "note":
            more = {"attempt": True, "reason": self.chance.choice(["no_worker", ""])}
            self.emit(EventType.STEP_WAITING, name, item, number, None, more)
        elif kind == "plan":
            self.emit(EventType.PLAN_PROPOSED, name, item, number, role="approver", trace={})
        else:
            more = {"arm_failed": "1.0.0"} if kind == "arm" else {"lost": True} if kind == "ask" else {}
            what = {"arm": "retry"}.get(kind, kind)
            self.emit(EventType.ATTEMPT_FAILED, name, item, number, error=error, next=what, retry_at=due, **more)

    def _number(self) -> int:
        self.serial += 1
        return self.serial

    def _name(self) -> str:
        return f"c{self._number()}"
