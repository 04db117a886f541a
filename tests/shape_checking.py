"""The checker that `conftest.py` puts around every function of the library while the tests run."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isclass
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations that name a shape, and only those: of wrong input elsewhere the library must speak itself."""
    shaped = {name: hint for name, hint in function.__annotations__.items() if _names_a_shape(hint)}
    if not shaped:
        return function
    function.__annotations__ = shaped
    return beartype(function)


def _names_a_shape(hint: Any) -> bool:
    return (isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_names_a_shape, get_args(hint)))
