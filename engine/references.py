"""Which steps a step needs because its expressions refer to them. Validation and the compiler share this inference."""

from collections.abc import Collection, Iterable, Iterator

from core.spec import Step
from engine.expression.program import compile_expression
from engine.expression.references import Reference
from engine.expression.template import compile_template


def inferred_needs(step: Step, expression_fields: Collection[str]) -> frozenset[str]:
    """Ids of the steps that `with`, `when` and `foreach` refer to.

    Args:
        expression_fields: the parameters of the step's node whose text is itself CEL.

    Raises:
        ExpressionSyntaxError: an expression is wrong, which validation of the spec has ruled out.
    """
    return needed_steps(_references(step, expression_fields))


def needed_steps(references: Iterable[Reference]) -> frozenset[str]:
    """The ids in references of the form `steps.<id>…`."""
    return frozenset(one.path[0] for one in references if one.root == "steps" and one.path)


def _references(step: Step, expression_fields: Collection[str]) -> Iterator[Reference]:
    templates = {name: value for name, value in step.with_.items() if name not in expression_fields}
    yield from compile_template([templates, step.when, step.foreach]).references
    for name in expression_fields:
        source = step.with_.get(name)
        if isinstance(source, str):
            yield from compile_expression(source).analysis.references
