"""What can go wrong with a command, and the exit code that says so.

0  it worked; the run completed
1  the run failed or was cancelled; the server could not start
2  the command, the input or the workflow is wrong, or the server refuses it
3  the server cannot be reached, or cannot answer now
4  `--wait` ended before the run did
"""

from collections.abc import Mapping
from typing import Any

FAILED = 1
WRONG = 2
UNREACHABLE = 3
GOES_ON = 4
INTERRUPTED = 130


class CommandError(Exception):
    """Ends a command with a sentence and an exit code.

    Args:
        sentence: for a person.
        code: the exit code.
        problem: what the server said (RFC 9457), where it said something.
    """

    def __init__(self, sentence: str, code: int = WRONG, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
        self.problem = dict(problem) if problem else {"title": "Error", "detail": sentence}

    @property
    def faults(self) -> list[dict[str, Any]]:
        """The faults that the server found, if it said which."""
        return list(self.problem.get("faults") or [])
