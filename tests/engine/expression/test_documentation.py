"""Every example of docs/expressions.md is evaluated."""

import json
import re
from pathlib import Path

import pytest

from core.errors import StepError
from engine.expression.evaluator import Evaluator
from engine.expression.template import compile_template

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "expressions.md").read_text()
SCOPE = json.loads(re.search(r"```json scope\n(.*?)```", PAGE, re.S)[1])
ROW = re.compile(r"^\| `(.+?)` \| `(.+)` \|$")


def rows(header: str) -> list[tuple[str, str]]:
    found = []
    for table in re.findall(rf"^\| Template \| {header} \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.M):
        for line in table.splitlines():
            row = ROW.match(line)
            assert row, f"cannot read {line}"
            found.append((row[1].replace("\\|", "|"), row[2]))
    return found


def test_the_page_has_examples() -> None:
    assert len(rows("Value")) > 35
    assert len(rows("Error")) > 10


@pytest.mark.parametrize(("template", "value"), rows("Value"))
async def test_values(evaluator: Evaluator, template: str, value: str) -> None:
    got = await evaluator.resolve(compile_template(template), SCOPE)
    expected = json.loads(value)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(("template", "said"), rows("Error"))
async def test_errors(evaluator: Evaluator, template: str, said: str) -> None:
    with pytest.raises(StepError) as caught:
        await evaluator.resolve(compile_template(template), SCOPE)
    assert said in caught.value.message.replace("`", "")
