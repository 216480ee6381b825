"""What every table of the configuration has in common, and the numbers its fields take."""

from types import NoneType
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = bool | int | float | str
Option = Scalar | tuple[Scalar, ...] | tuple[tuple[Scalar, ...], ...]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the configuration. The text "none" clears a field that may be empty."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _clear(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name, field in cls.model_fields.items():
            parts = values.get(name)
            parts = parts if isinstance(parts, list | tuple) else [parts]
            if field.annotation is not bool and any(isinstance(part, bool) for part in parts):
                raise ValueError(f"{name} is no switch; true and false do not fit")
        empty = {n for n, f in cls.model_fields.items() if NoneType in get_args(f.annotation)}
        return {k: None if v == "none" and k in empty else v for k, v in values.items()}


def ordered(name: str, pair: tuple[float, float]) -> None:
    """Raise ValueError where a range runs backwards."""
    if pair[0] > pair[1]:
        raise ValueError(f"{name} is a range (low, high), but {pair[0]:g} is above {pair[1]:g}")
