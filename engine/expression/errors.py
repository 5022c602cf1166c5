"""What goes wrong with an expression, told so that its author can mend it.

StepError
└── ExpressionError           it could not be evaluated (or a bound stopped it)
    └── ExpressionSyntaxError it cannot be compiled; has a position
"""

from core.errors import ErrorClass, StepError

SHOWN_SOURCE = 200
"""Characters of an expression that an error message repeats."""


def shorten(source: str) -> str:
    """The source as messages show it: one line, at most SHOWN_SOURCE characters."""
    line = " ".join(source[: SHOWN_SOURCE * 4].split())
    return line if len(line) <= SHOWN_SOURCE else line[: SHOWN_SOURCE - 1] + "…"


class ExpressionError(StepError):
    """An expression gave no value.

    Args:
        problem: what was wrong and what to do about it.
        source: the expression; the message shows its first SHOWN_SOURCE characters.
    """

    def __init__(self, problem: str, source: str) -> None:
        self.problem = problem
        self.source = shorten(source)
        super().__init__(ErrorClass.EXPRESSION, f"{problem} (in `{self.source}`)" if self.source else problem)


class ExpressionSyntaxError(ExpressionError):
    """An expression, or the template around it, is not well formed or breaks a bound on its text.

    Attributes:
        position: offset in characters; within the expression, or within the whole string when the template itself
            is at fault.
        path: JSON path of the string within the template's value, `$` for an expression that stands alone.
    """

    def __init__(self, problem: str, source: str, position: int, path: str = "$") -> None:
        super().__init__(f"{problem}, at character {position + 1}", source)
        self.detail = {"position": position, "path": path}
        self.bare_problem = problem
        self.position = position
        self.path = path

    def at(self, path: str) -> "ExpressionSyntaxError":
        """The same fault, found in the string at `path`."""
        return ExpressionSyntaxError(self.bare_problem, self.source, self.position, path)
