"""What summary.json is made of: numbers, names, and objects that keep the keys of later versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)

__all__ = ["Fraction", "Line", "NonNegative", "Number", "OrEmpty", "OrNone", "Part", "Positive"]


def _as_given(value: Any, check: Callable[[Any], Any]) -> Any:
    check(value)
    return value  # a whole number stays one, and is written as it was


Number = Annotated[float, WrapValidator(_as_given)]
Fraction = Annotated[float, Field(ge=0, le=1), WrapValidator(_as_given)]
NonNegative = Annotated[float, Field(ge=0), WrapValidator(_as_given)]
Positive = Annotated[float, Field(gt=0), WrapValidator(_as_given)]
# Names are printed, and a line of its own could be taken for a command by whoever reads the log of a CI job.
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\u0085\u2028\u2029]*$")]

OrEmpty = BeforeValidator(lambda value: {} if value is None else value)
OrNone = BeforeValidator(lambda value: [] if value is None else value)  # a list that is null has no entries


class Part(BaseModel):
    """An object of the document; it is written with the keys that it came with, in their order."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    _given: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _remember(cls, value: Any, handler: ModelWrapValidatorHandler[Part]) -> Part:
        found = handler(value)
        if isinstance(value, dict):
            found._given = tuple(value)
        return found

    @model_serializer(mode="wrap")
    def _as_it_came(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = handler(self)
        return {key: written[key] for key in self._given}
