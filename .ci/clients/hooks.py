"""For schemathesis: what the description of the interface cannot say."""

import base64
import json

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData

# Why a request that is as the description says may still be refused with status 400: code and field of the error.
UNPREDICTABLE = {
    ("adapter_already_loaded", "lora_name"),
    ("context_length_exceeded", "max_tokens"),
    ("context_length_exceeded", "prompt"),
    ("invalid_adapter", "lora_path"),
    ("invalid_adapter", "path"),
    ("invalid_image", "image"),
    ("invalid_prompt", "messages"),
    ("invalid_prompt", "prompt"),
    ("invalid_value", "columns"),
    ("invalid_value", "lora_name"),
    ("invalid_value", "n"),
    ("invalid_value", "name"),
    # Of an adapter whose template the columns do not fill.
    ("missing_required_parameter", "prompt"),
    ("unsupported_parameter", "best_of"),
}

# One grey pixel.
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="


@schemathesis.hook.apply_to(path=["/v1/completions", "/v1/chat/completions", "/v1/images/classify"])
def map_case(context, case):
    """Puts a good name and a good image where the case has any; with others, the rest of the request is not looked at."""
    if case.meta.phase.name.value != "coverage" or not isinstance(case.body, dict):
        return case
    if isinstance(case.body.get("model"), str):
        case.body["model"] = "lora" if case.operation.path == "/v1/images/classify" else "museum"
    if isinstance(case.body.get("image"), str | bytes):
        case.body["image"] = IMAGE if case.media_type == "application/json" else base64.b64decode(IMAGE)
    return case


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Whether a failure counts."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 400:
        return True
    error = json.loads(response.content)["error"]
    return (error["code"], error["param"]) not in UNPREDICTABLE
