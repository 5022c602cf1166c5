"""Which steps a step needs because its expressions refer to them. Validation and the compiler share this inference."""

from collections.abc import Collection, Iterable, Iterator

from core.spec import Step
from engine.composition.literal import split_literal
from engine.expression.program import compile_expression
from engine.expression.references import Reference
from engine.expression.template import compile_template


def inferred_needs(
    step: Step, expression_fields: Collection[str], literal_fields: Collection[str] = ()
) -> frozenset[str]:
    """Ids of the steps that `with`, `when`, `foreach` and the keys of cache and limit refer to.

    Args:
        expression_fields: the parameters of the step's node whose text is itself CEL.
        literal_fields: those whose expressions belong to another scope, such as the body of a loop.

    Raises:
        ExpressionSyntaxError: an expression is wrong, which validation of the spec has ruled out.
    """
    return needed_steps(_references(step, expression_fields, literal_fields))


def needed_steps(references: Iterable[Reference]) -> frozenset[str]:
    """The ids in references of the form `steps.<id>…`."""
    return frozenset(one.path[0] for one in references if one.root == "steps" and one.path)


def _references(step: Step, expression_fields: Collection[str], literal_fields: Collection[str]) -> Iterator[Reference]:
    rest, _ = split_literal(step.with_, literal_fields)
    templates = {name: value for name, value in rest.items() if name not in expression_fields}
    keys = [step.cache.key if step.cache else None, step.limit.key if step.limit else None]
    yield from compile_template([templates, step.when, step.foreach, keys]).references
    for name in expression_fields:
        source = step.with_.get(name)
        if isinstance(source, str):
            yield from compile_expression(source).analysis.references
