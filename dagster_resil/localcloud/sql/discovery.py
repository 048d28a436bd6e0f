"""Google's discovery document of the Cloud SQL Admin API: its methods, and what bodies look like.

The document ships inside google-api-python-client
(``googleapiclient/discovery_cache/documents/sqladmin.v1.json``); it is read as a file, so that the
library itself need not be loaded. Its form is described at
https://developers.google.com/discovery/v1/reference/apis.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

_PLACE = Path("discovery_cache", "documents")
VERSIONS = ("v1", "v1beta4")
"""The versions that there are documents of. Google's connectors, gcloud and Terraform call the
second one; for what is done here the two have the same bodies."""
_INT64 = re.compile(r"-?\d{1,19}")
_DURATION = re.compile(r"-?\d+(\.\d{1,9})?s")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True)
class Violation:
    """Something in a body that the document does not know.

    :param place: where, for example ``settings.user_labels``; "" for the top.
    """

    place: str
    message: str


@dataclass(frozen=True)
class Method:
    """A method of the API.

    :param id: for example "sql.instances.insert".
    :param path: a regular expression of the whole path; its groups are the path's names.
    :param request: the name of the body's schema; None for no body.
    """

    id: str
    verb: str
    path: re.Pattern[str]
    parameters: Mapping[str, Mapping[str, Any]]
    request: str | None
    response: str


class Document:
    """A discovery document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.revision = str(document["revision"])
        self._schemas: Mapping[str, Any] = document["schemas"]
        self.common_parameters: Mapping[str, Mapping[str, Any]] = document["parameters"]
        self.methods = sorted(
            self._methods(document["resources"]),
            # A literal ending, ":generateEphemeralCert", comes before a name that would take it in.
            key=lambda method: (-len(re.sub(r"\(.*?\)", "", method.path.pattern)), method.id),
        )

    def _methods(self, resources: Mapping[str, Any]) -> list[Method]:
        found = []
        for resource in resources.values():
            for method in resource.get("methods", {}).values():
                parameters = method.get("parameters", {})
                found.append(
                    Method(
                        id=method["id"],
                        verb=method["httpMethod"],
                        path=_expression(method["path"], parameters),
                        parameters={
                            name: each
                            for name, each in parameters.items()
                            if each["location"] == "query"
                        },
                        request=method.get("request", {}).get("$ref"),
                        response=method["response"]["$ref"],
                    )
                )
            found += self._methods(resource.get("resources", {}))
        return found

    def violations(self, name: str, body: Any) -> list[Violation]:
        """Return what is wrong with a body.

        :param name: of its schema.
        """
        found: list[Violation] = []
        self._check({"$ref": name}, body, "", found)
        return found

    def canonical(self, name: str, body: Any) -> Any:
        """Return a valid body as answers have it: numbers of 64 bits are texts there."""
        return self._canonical({"$ref": name}, body)

    def _canonical(self, schema: Mapping[str, Any], value: Any) -> Any:
        if "$ref" in schema:
            schema = self._schemas[schema["$ref"]]
        if schema.get("format") == "int64" and type(value) is int:
            return str(value)
        if isinstance(value, list):
            return [self._canonical(schema.get("items", {}), each) for each in value]
        if isinstance(value, dict):
            more = schema.get("additionalProperties", {})
            properties = schema.get("properties", {})
            return {k: self._canonical(properties.get(k, more), v) for k, v in value.items()}
        return value

    def _check(
        self, schema: Mapping[str, Any], value: Any, place: str, found: list[Violation]
    ) -> None:
        if "$ref" in schema:
            schema = self._schemas[schema["$ref"]]
        kind = schema.get("type", "any")
        if kind == "any" or value is None:  # null stands for a field that is not given
            return
        if schema.get("format") == "int64" and type(value) is int:
            value = str(value)
        fitting = isinstance(value, _TYPES[kind])
        if isinstance(value, bool) and kind != "boolean":
            fitting = False
        if not fitting:
            found.append(Violation(place, f"Invalid value at '{place}' ({kind}), {value!r:.80}"))
        elif kind == "object":
            self._check_object(schema, value, place, found)
        elif kind == "array":
            for number, each in enumerate(value):
                self._check(schema["items"], each, f"{place}[{number}]", found)
        elif "enum" in schema and value not in schema["enum"]:
            found.append(Violation(place, f"Invalid value at '{place}' (enum), {value!r:.80}"))
        elif problem := _wrong_format(schema.get("format"), value):
            found.append(Violation(place, f"Invalid value at '{place}' ({problem}), {value!r:.80}"))

    def _check_object(
        self, schema: Mapping[str, Any], value: Any, place: str, found: list[Violation]
    ) -> None:
        properties = schema.get("properties", {})
        more = schema.get("additionalProperties")
        for key, each in value.items():
            here = f"{place}.{key}" if place else key
            if key in properties:
                self._check(properties[key], each, here, found)
            elif more is not None:
                self._check(more, each, here, found)
            else:
                at = f" at '{place}'" if place else ""
                found.append(Violation(place, f'Unknown name "{key}"{at}: Cannot find field.'))


def _expression(template: str, parameters: Mapping[str, Any]) -> re.Pattern[str]:
    """Return the regular expression of a path's template (RFC 6570, ``{x}`` and ``{+x}``).

    A parameter's own pattern says how far it reaches: without it ``operations/x`` would match
    a method of something else.
    """
    expression = ""
    for piece in re.split(r"(\{\+?\w+\})", template):
        if piece.startswith("{"):
            name = piece.strip("{+}")
            pattern = str(parameters[name].get("pattern", "[^/]+")).strip("^$")
            expression += f"(?P<{name}>{pattern})"
        else:
            expression += re.escape(piece)
    return re.compile("/" + expression)


def _wrong_format(form: str | None, value: Any) -> str | None:
    match form:
        case "int32":
            fits = -(2**31) <= value < 2**31
        case "int64":
            fits = bool(_INT64.fullmatch(value)) and -(2**63) <= int(value) < 2**63
        case "google-datetime":
            try:
                parse_time(value)
            except ValueError:
                return form
            return None
        case "google-duration":
            fits = bool(_DURATION.fullmatch(value))
        case _:
            return None
    return None if fits else form


def parse_time(text: str) -> datetime:
    """Return a time that is written as RFC 3339 says.

    :raises ValueError: it is none.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"not a time in RFC 3339: {text!r}")
    # Nine digits are allowed, and Python keeps six.
    fraction = (found[2] or ".0")[:7]
    zone = "+00:00" if found[3] == "Z" else found[3]
    return datetime.fromisoformat(f"{found[1]}{fraction:0<7}{zone}").astimezone(UTC)


def format_time(when: datetime) -> str:
    """Return a time as the Admin API writes it: UTC, milliseconds."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def format_time_up(when: datetime) -> str:
    """Return the first time at or after another one that has no more than milliseconds."""
    return format_time(when + timedelta(microseconds=-when.microsecond % 1000))


@lru_cache(maxsize=len(VERSIONS))
def document(version: str = "v1") -> Document:
    """Return the document of a version."""
    spec = importlib.util.find_spec("googleapiclient")
    for place in (spec and spec.submodule_search_locations) or ():
        file = Path(place) / _PLACE / f"sqladmin.{version}.json"
        return Document(json.loads(file.read_text(encoding="utf-8")))
    raise FileNotFoundError("google-api-python-client, a dependency of ours, is not there")
