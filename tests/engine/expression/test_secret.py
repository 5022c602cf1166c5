import pytest

from core.errors import ErrorClass, StepError
from engine.expression.evaluator import Evaluator
from engine.expression.secret import SecretText, masked, reveal
from engine.expression.template import compile_template

VALUE = {"h": ["Bearer {{ secrets.TOKEN }}/{{ input.a }}", "{{ secrets.TOKEN }}"], "plain": "{{ input.a }}"}
SCOPE = {"input": {"a": "{{ secrets.OTHER }}"}}


def test_a_secret_is_a_handle_until_it_is_revealed() -> None:
    resolved = Evaluator().try_resolve(compile_template(VALUE), SCOPE)
    assert isinstance(resolved["h"][0], SecretText)
    assert resolved["h"][0].names == {"TOKEN"}
    assert "{{ secrets.TOKEN }}" in repr(resolved)
    assert masked(resolved)["h"] == ["Bearer {{ secrets.TOKEN }}/{{ secrets.OTHER }}", "{{ secrets.TOKEN }}"]
    assert reveal(resolved, {"TOKEN": "t0p", "OTHER": "never"}) == {
        "h": ["Bearer t0p/{{ secrets.OTHER }}", "t0p"],
        "plain": "{{ secrets.OTHER }}",
    }


def test_an_unknown_secret_is_an_auth_error_that_names_it() -> None:
    with pytest.raises(StepError, match="TOKEN") as caught:
        reveal(Evaluator().try_resolve(compile_template(VALUE), SCOPE), {})
    assert caught.value.error_class is ErrorClass.AUTH


async def test_secrets_have_no_value_in_expressions(evaluator: Evaluator) -> None:
    with pytest.raises(StepError, match="secrets cannot be used here"):
        await evaluator.evaluate("secrets.A", {"secrets": {"A": "leak"}})
