"""Parts of summary.json: numbers, names, objects that keep the keys of later versions, the smallest ones."""

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

__all__ = [
    "BoundFigures",
    "BudgetFigures",
    "Contribution",
    "Disturbance",
    "Fraction",
    "Judged",
    "Line",
    "NonNegative",
    "Number",
    "OrEmpty",
    "OrNone",
    "Part",
    "Positive",
    "Rounding",
    "Unreached",
]


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


# --- the smallest parts -------------------------------------------------------------------------------------


class BoundFigures(Part):
    """An upper bound: `limit` in FLOPs, parameters or milliseconds, as `metric` says.

    `share` is that of the target network's; of one of several bounds, `reached` is the slim network's figure.
    """

    metric: str | None = None
    limit: Number | None = None
    share: Number | None = None
    reached: Number | None = None


class BudgetFigures(BoundFigures):
    """What the search was given: its only bound, or the first, and then all of them in `bounds`."""

    label: Line = ""
    bounds: Annotated[list[BoundFigures], OrNone] = Field(default=[])

    @property
    def each(self) -> list[BoundFigures]:
        """The bounds; none where no budget is known."""
        return self.bounds or ([self] if self.metric is not None else [])

    def on(self, metric: str) -> BoundFigures | None:
        """The bound on a figure, if there is one."""
        return next((bound for bound in self.each if bound.metric == metric), None)


class Rounding(Part):
    """Rounding of a network in float32, in units of its logits: `error` its largest, beside float64.

    `largest` is the largest logit; of the batch norms, `norm` magnifies the rounding most.
    """

    error: NonNegative
    largest: NonNegative
    ill_conditioned: bool = False
    norm: Line | None = None
    gain: NonNegative | None = None
    variance: NonNegative | None = None


class Unreached(Part):
    """Weights that no image reaches, at images of `image_size` [height, width]; `share` is of all of them."""

    weights: int
    share: Fraction
    image_size: Annotated[list[int], OrNone] = Field(default=[])
    layers: Annotated[list[Line], OrNone] = Field(default=[])


class Disturbance(Part):
    """What else the processor did meanwhile, as shares: see `jstc.ort.doubts`."""

    others: Fraction | None = None
    waited: Fraction | None = None
    stolen: Fraction | None = None


class Judged(Part):
    """Plans that a search has judged without training them: how many, how long, on how many images each."""

    judged: int
    seconds: NonNegative | None = None
    images: int | None = None


class Contribution(Part):
    """A plan with one more part of the search than the one before it, judged as the others were.

    A loss is null where it was not finite.
    """

    part: Line
    loss: Number | None = None
    accuracy: Fraction | None = None
    params: NonNegative | None = None
