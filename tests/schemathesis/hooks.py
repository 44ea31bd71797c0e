"""Hooks of the schemathesis runs: the callers, their client networks, and the accepted failures."""

import json
import os
import random

import schemathesis

import exceptions

RANDOM = random.Random(os.environ["SCHEMATHESIS_SEED"])
# A JSON list with an access token for each of many accounts of one role. Without the file, the caller is anonymous.
TOKENS_FILE = os.environ.get("SCHEMATHESIS_TOKENS")

if TOKENS_FILE:
    with open(TOKENS_FILE, encoding="utf-8") as file:
        TOKENS = iter(json.load(file))
    # An admin who is refused has lost the role.
    RETRY_ON = [401, 403] if os.environ["SCHEMATHESIS_CALLER"] == "admin" else [401]

    @schemathesis.auth(refresh_interval=24 * 60 * 60, retry_on=RETRY_ON)
    class Account:
        """Uses one account until it is refused: the run logs out, deletes, deactivates and demotes its own accounts."""

        def get(self, case, context):
            return next(TOKENS)

        def set(self, case, token, context):
            case.headers["Authorization"] = f"Bearer {token}"


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Removes the `default` responses, which document every status: each operation must list the statuses that it returns."""
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("default", None)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Sends each request from a random client network, so that the limits of attempts do not refuse most requests."""
    case.headers["X-Forwarded-For"] = ".".join(str(RANDOM.randrange(1, 255)) for _ in range(4))


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Drops the failures that are listed as exceptions."""
    return not exceptions.is_accepted(failure, case, response)
