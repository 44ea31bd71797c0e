"""The failures of schemathesis that are accepted, each with its reason. Everything else fails the run."""

import json


def is_accepted(failure, case, response):
    problem = read_problem(response)
    return any(accepts(failure, case, response, problem) for accepts in ACCEPTED)


def read_problem(response):
    try:
        problem = json.loads(response.content)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def is_refusal(failure, status):
    """Whether a request that matches the document was refused with this status."""
    return type(failure).__name__ == "RejectedPositiveData" and failure.status_code == status


def refused_by_state(failure, case, response, problem):
    """The document describes the form of a request. It cannot say which passwords, links, codes, addresses, invitations,
    entity tags and idempotency keys are right."""
    codes = {
        400: {"wrong_password", "invalid_link", "invalid_code", "email_taken", "invitation_invalid", "invitation_expired"},
        412: {"precondition_failed"},
        422: {"idempotency_key_reused"},
    }
    return any(is_refusal(failure, status) and problem.get("code") in known for status, known in codes.items())


def unknown_cursor(failure, case, response, problem):
    """A cursor comes from the page before. JSON Schema cannot say which cursors exist."""
    refused = [error["loc"] for error in problem.get("errors", [])]
    return is_refusal(failure, 422) and refused == [["query", "cursor"]]


def too_long_target(failure, case, response, problem):
    """The server refuses a long request line before it knows the operation. The document has
    this only as a default response."""
    return problem.get("code") == "target_too_long" and response.status_code == 414


def refused_text(failure, case, response, problem):
    """JSON Schema has no keyword for common passwords and for a password that is the caller's own name, and only a pattern
    on every text could exclude the NUL character, which PostgreSQL cannot store, and the control characters in names."""
    errors = problem.get("errors", [])
    refused = [error["loc"][-1] in {"password", "new_password"} or any(text in error["msg"] for text in ("NUL character", "control characters")) for error in errors]
    return is_refusal(failure, 422) and bool(refused) and all(refused)


def repeated_form_field(failure, case, response, problem):
    """RFC 6749 section 3.2 forbids to repeat a field of a form, and JSON Schema describes each field once."""
    kinds = {error["type"] for error in problem.get("errors", [])}
    is_form = (case.media_type or "").endswith("x-www-form-urlencoded")
    return is_refusal(failure, 422) and is_form and kinds == {"repeated"}


def refresh_without_token(failure, case, response, problem):
    """The token is optional for browsers, which have it in a cookie that no run has."""
    is_refresh = case.operation.label == "POST /api/v1/auth/refresh"
    missing = [error["loc"] for error in problem.get("errors", [])] == [["body", "refresh_token"]]
    return is_refresh and missing and is_refusal(failure, 422)


ACCEPTED = [
    refused_by_state,
    refused_text,
    repeated_form_field,
    refresh_without_token,
    too_long_target,
    unknown_cursor,
]
