"""What routes that read their own requests add to the OpenAPI document."""

from typing import Any

from dpace_serve.config import Config


def body_document(model: type[Config], *, is_required: bool = True) -> dict[str, Any]:
    """A body of this model in JSON.

    Args:
        model: What the body is checked by.
        is_required: Whether there must be one; else none is an empty object.
    """
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"content": content, "required": is_required}}


def query_document(model: type[Config]) -> dict[str, Any]:
    """A query whose parameters are the fields of this model, none of them needed."""
    fields = model.model_json_schema()["properties"]
    parameters = []
    for name, schema in fields.items():
        # A query has text alone: a parameter that is not given is not there, and not null.
        [text] = [one for one in schema["anyOf"] if one.get("type") == "string"]
        parameters.append({"name": name, "in": "query", "required": False, "schema": text})
    return {"parameters": parameters}
