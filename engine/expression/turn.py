"""The event loop's time that one resolution may take before it lets others run."""

import asyncio
from dataclasses import dataclass

from engine.expression.result import MAX_RESULT, BadResult

TURN_MICROSECONDS = 10_000


@dataclass(slots=True)
class Turn:
    """What a resolution has used since it last gave way, and how much its results hold in all."""

    spent: int = 0
    grown: int = 0

    def spend(self, microseconds: int) -> None:
        """Charge an evaluation."""
        self.spent += microseconds

    def grow(self, size: int) -> None:
        """Charge a result's bytes; encoding them to learn their size took time too. Raises BadResult above 1 MB."""
        self.grown += size
        self.spent += 1 + size // 400
        if self.grown > MAX_RESULT:
            raise BadResult(f"the expressions together give more than {MAX_RESULT} bytes; pass only what is used")

    @property
    def is_over(self) -> bool:
        """Whether others should run now."""
        return self.spent > TURN_MICROSECONDS

    async def next(self) -> "Turn":
        """Let others run."""
        await asyncio.sleep(0)
        return Turn(grown=self.grown)
