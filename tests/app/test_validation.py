import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from app.validation import describe_error, suggest_name


class Inner(BaseModel):
    size: int = Field(ge=1)


class Outer(BaseModel):
    parts: list[Inner] = []
    is_known: bool = True

    @model_validator(mode="after")
    def _is_known(self):
        if not self.is_known:
            raise ValueError("it is not known")
        return self


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"parts": [{"size": 1}, {"size": 0}]}, "parts.1.size: Input should be greater than or equal to 1"),
        ({"is_known": False}, "it is not known"),
    ],
)
def test_the_first_error_is_told_in_one_line_with_its_field(given, expected):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(given)
    assert describe_error(caught.value) == expected


def test_the_nearest_known_name_is_suggested_if_any_is_near():
    known = ("height", "width", "strides")
    assert suggest_name("stride", known) == "; did you mean strides?"
    assert suggest_name("temperature", known) == ""
    assert suggest_name("x", ()) == ""
