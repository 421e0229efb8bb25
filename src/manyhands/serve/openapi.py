"""The OpenAPI document, made from the endpoints themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

import manyhands

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manyhands.serve.endpoints import Endpoint

_REF = "#/components/schemas/{model}"
_COMMON = {
    401: "A token is needed.",
    403: "The token does not do, or the request comes from the page of another site.",
    421: "The server is not asked under its own name.",
    422: "The request is not as it should be; the error says where.",
    500: "The server failed.",
}
_OF_BODIES = {
    400: "The body is no JSON.",
    408: "The body took too long.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    429: "There is no room; `Retry-After` says when to come again.",
    503: "The server is about to stop.",
}
_SUMMED_UP = "The runs, conversations and agents of one server, and a chat face for existing clients."


def document(endpoints: Iterable[Endpoint], secured: bool, prefix: str = "") -> dict[str, Any]:
    """Return the document.

    Args:
        endpoints: What it describes.
        secured: Whether tokens are needed.
        prefix: Path under which the app is mounted.
    """
    listed = list(endpoints)
    names, definitions = _schemas(listed)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in listed:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, names, secured)
    components: dict[str, Any] = {"schemas": definitions}
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "manyhands", "version": manyhands.__version__, "description": _SUMMED_UP},
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": components,
    }


Names = dict[Any, dict[str, Any]]


def _schemas(endpoints: list[Endpoint]) -> tuple[Names, dict[str, Any]]:
    models: dict[Any, Any] = {}
    for endpoint in endpoints:
        asked, told = (endpoint.body,), (endpoint.answer, endpoint.problem_model)
        models |= {model: "validation" for model in asked if model is not None}
        models |= {model: "serialization" for model in told if model is not None}
    refs, definitions = models_json_schema(list(models.items()), ref_template=_REF)
    return {model: schema for (model, _), schema in refs.items()}, definitions["$defs"]


def _operation(endpoint: Endpoint, names: Names, secured: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": re.sub(r"\W+", "_", f"{endpoint.method.lower()}{endpoint.path}").strip("_"),
        "parameters": [*_parameters(endpoint)],
        "responses": _responses(endpoint, names),
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": endpoint.body_needed,
            "content": {"application/json": {"schema": names[endpoint.body]}},
        }
    if secured and not endpoint.open:
        operation["security"] = [{"token": []}]
    return operation


def _parameters(endpoint: Endpoint) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", endpoint.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if endpoint.query is not None:
        for name, schema in endpoint.query.model_json_schema()["properties"].items():
            yield {"name": name, "in": "query", "required": False, "schema": _without_null(schema)}
    for name, text in endpoint.headers.items():
        schema = {"type": "string", "pattern": "^[0-9]{0,16}$"}
        yield {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter of a query is left out; it cannot be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**rest, **kinds[0]}


def _responses(endpoint: Endpoint, names: Names) -> dict[str, Any]:
    answer = {} if endpoint.answer is None else {"schema": names[endpoint.answer]}
    good: dict[str, Any] = {"content": {endpoint.media: answer, **{media: {} for media in endpoint.also}}}
    found: dict[int, Any] = {200: {"description": "It is done.", **good}}
    if 201 in endpoint.answers:
        del found[200]
    problem = {"content": {"application/json": {"schema": names[endpoint.problem_model]}}}
    problems = {**_COMMON, **(_OF_BODIES if endpoint.body is not None else {})}
    if endpoint.open:
        problems = {500: problems[500]}
    for status, text in {**problems, **endpoint.answers}.items():
        body = good if status < 300 or status in endpoint.answer_at else problem
        found[status] = {"description": text, **({} if status in (204, 304) else body)}
    return {str(status): found[status] for status in sorted(found)}
