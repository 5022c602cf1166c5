"""Drives a composition with children whose ends are scripted and whose order is drawn."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from engine.composition import ChildAsk, ChildState, Description, Progress, composition_of

End = Callable[[ChildAsk, int], ChildState]
"""How a child ends: from what was asked, and which try it is."""


def completed(output: Any) -> ChildState:
    return ChildState(0, "completed", output)


def failed(message: str = "no", kind: str = "network") -> ChildState:
    return ChildState(0, "failed", error={"class": kind, "message": message})


@dataclass
class Driver:
    """Attributes: `crashes`: the share of steps after which the composition is made anew."""

    description: Description
    end: End
    chance: random.Random
    tells: bool = True
    crashes: float = 0.2
    verdicts: Callable[[dict[str, Any]], Any] = lambda variables: False
    children: dict[int, ChildState] = field(default_factory=dict)
    asked: dict[int, ChildAsk] = field(default_factory=dict)
    most_running: int = 0
    delays: list[float | None] = field(default_factory=list)

    async def evaluate(self, source: str, variables: Any) -> Any:
        return self.verdicts(dict(variables))

    async def run(self, calls: int = 100_000) -> Progress:
        composition = composition_of(self.description)
        ended: list[int] = []
        for _ in range(calls):
            if self.chance.random() < self.crashes:
                composition = composition_of(self.description)
                progress = await composition.advance(self.children, self.evaluate)
            else:
                progress = await composition.advance(self.children, self.evaluate, ended if self.tells else None)
            ended = []
            if progress.done or progress.failed:
                assert not progress.start
                return progress
            self.start(progress)
            running = self.running()
            self.most_running = max(self.most_running, len(running))
            assert running, "nothing is under way and nothing is asked for"
            for index in self.chance.sample(running, self.chance.randint(1, len(running))):
                before = self.children[index]
                self.children[index] = replace(self.end(self.asked[index], before.tries), tries=before.tries)
                ended.append(index)
        raise AssertionError("it does not end")

    def start(self, progress: Progress) -> None:
        self.delays.append(progress.wake_at_delay)
        for ask in progress.start:
            before = self.children.get(ask.index)
            assert before is None or before.status == "failed", f"{ask.index} is started twice"
            self.asked[ask.index] = ask
            self.children[ask.index] = ChildState(ask.index, tries=before.tries + 1 if before else 1)

    def running(self) -> list[int]:
        return [index for index, child in self.children.items() if child.status == "running"]
