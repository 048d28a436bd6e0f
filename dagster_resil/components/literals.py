"""Secrets that were typed into YAML: refused, and repeated nowhere."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_PLACES = ("connection", "cloud_sql")
"""The parts of a component that tell how to sign in."""
_LITERALS = ("url", "password", "dsn", "uri")


class _Hidden:
    """Stands in for what may be a secret: Dagster quotes values in its errors."""

    def __repr__(self) -> str:
        return "(not repeated here)"


def refuse_literals(given: dict[str, Any]) -> None:
    """Refuse an address or a password in place of the name of a variable that holds it.

    :raises ValueError: there is one.
    """
    for key in _LITERALS:
        if key in given:
            raise ValueError(
                f"'{key}' does not belong in a file: put it into an environment variable and give "
                f"the variable's name as '{'password' if key == 'password' else 'url'}_env'"
            )


@cache
def reading(model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of a component's YAML that quotes no secret.

    What has no name that we know may be a misspelt one's value.
    """

    class Reading(model):  # type: ignore[misc, valid-type]
        model_config = ConfigDict(title=model.__name__)

        @model_validator(mode="before")
        @classmethod
        def _check(cls, data: Any) -> Any:
            for place in _PLACES if isinstance(data, dict) else ():
                given = data.get(place)
                if isinstance(given, dict):
                    # In place: an error quotes the whole of what was given, too.
                    for key in given.keys() - _known(cls, place):
                        given[key] = _Hidden()
                    refuse_literals(given)
            return data

    return Reading


def _known(model: type[BaseModel], place: str) -> set[str]:
    """Return the names that a part of a component has."""
    return {
        name
        for part in getattr(model.model_fields[place].annotation, "__args__", ())
        if isinstance(part, type) and issubclass(part, BaseModel)
        for name in part.model_fields
    }
