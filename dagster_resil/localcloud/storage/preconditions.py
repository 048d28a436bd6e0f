"""Preconditions: a request that goes ahead only if what is there is what the caller thinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dagster_resil.localcloud.protocol import ApiError, invalid


class Generations(Protocol):
    """Something that has a generation and a metageneration."""

    @property
    def generation(self) -> int:
        """Return which object of its name it is."""

    @property
    def metageneration(self) -> int:
        """Return how often its metadata was changed, and one."""


@dataclass(frozen=True)
class Preconditions:
    """What the caller thinks of an object; None for no opinion."""

    generation_match: int | None = None
    generation_not_match: int | None = None
    metageneration_match: int | None = None
    metageneration_not_match: int | None = None

    @classmethod
    def of(cls, query: Mapping[str, str], prefix: str = "if") -> Preconditions:
        """Read them from a query.

        :param prefix: "ifSource" for those of a copy's source.
        """

        def number(name: str) -> int | None:
            value = query.get(prefix + name)
            if value is None:
                return None
            if not value.isascii() or not value.isdigit():
                raise invalid(f"Invalid value for {prefix}{name}: {value!r}")
            return int(value)

        return cls(
            number("GenerationMatch"),
            number("GenerationNotMatch"),
            number("MetagenerationMatch"),
            number("MetagenerationNotMatch"),
        )

    def check(self, found: Generations | None, *, reading: bool = False) -> None:
        """Refuse the request unless they hold.

        :param found: what is there; None for nothing, whose generation is 0.
        :param reading: whether nothing changes: then "it is still the same" is no error (304).
        :raises ApiError: one does not hold.
        """
        generation = found.generation if found else 0
        metageneration = found.metageneration if found else None
        wrong = ApiError(
            412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold."
        )
        if self.generation_match is not None and self.generation_match != generation:
            raise wrong
        if self.metageneration_match is not None and self.metageneration_match != metageneration:
            raise wrong
        same = (
            self.generation_not_match is not None and self.generation_not_match == generation
        ) or (
            self.metageneration_not_match is not None
            and self.metageneration_not_match == metageneration
        )
        if same:
            if reading:
                raise ApiError(304, "notModified", "Not Modified")
            raise wrong


PARAMETERS = frozenset(
    f"if{name}Match"
    for name in ("Generation", "GenerationNot", "Metageneration", "MetagenerationNot")
)
SOURCE_PARAMETERS = frozenset(name.replace("if", "ifSource", 1) for name in PARAMETERS)
