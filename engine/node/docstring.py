"""Reads a Google-style docstring: what the node is called, what it does, and what each parameter means."""

import inspect
import re
from dataclasses import dataclass

_SECTION = re.compile(r"(Args|Arguments|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_ENTRY = re.compile(r"(\*{0,2}\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Docstring:
    """The parts of a docstring that go into a manifest."""

    title: str
    description: str
    parameters: dict[str, str]


def parse_docstring(text: str | None) -> Docstring:
    """Split a docstring; one that is missing gives empty parts."""
    lines = inspect.cleandoc(text or "").splitlines()
    title = lines[0].strip() if lines else ""
    section = ""
    prose: list[str] = []
    arguments: list[str] = []
    for line in lines[1:]:
        if match := _SECTION.match(line):
            section = match[1]
        elif not section:
            prose.append(line)
        elif section in {"Args", "Arguments"}:
            arguments.append(line)
    return Docstring(title.rstrip("."), "\n".join(prose).strip(), _parameters(arguments))


def _parameters(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    entry_indent = min(indents, default=0)
    current = ""
    for line in lines:
        if not line.strip():
            continue
        match = _ENTRY.match(line.strip())
        if match and len(line) - len(line.lstrip()) == entry_indent:
            current = match[1].lstrip("*")
            found[current] = match[2].strip()
        elif current:
            found[current] = f"{found[current]} {line.strip()}".strip()
    return found
