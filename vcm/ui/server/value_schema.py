"""The JSON schema of a component's value, made once."""

from __future__ import annotations

from functools import cache
from typing import Any

from gradio.data_classes import GradioModel


@cache
def describe_value(model: type[GradioModel]) -> dict[str, Any]:
    """Return the schema of a value as Gradio's `api_info` wants it; the dictionary is shared, so leave it as it is.

    Gradio asks for it three times whenever a component changes, which then is a new one that remembers nothing. Made
    anew, it took a sixth of the time of a run on the page, and the sampler waited meanwhile.
    """
    schema = model.model_json_schema()
    schema["additional_description"] = schema.pop("description", None)
    return schema
