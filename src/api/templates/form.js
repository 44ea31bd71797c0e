// The form of a page and its messages. The scripts `account.js` and `invitation.js` are served after this file, in one response.
"use strict";

const form = document.querySelector("form");
const problem = document.getElementById("problem");
const done = document.getElementById("done");

function visibleInputs() {
  return [...form.querySelectorAll("input")].filter((input) => !input.closest("[hidden]"));
}

function showProblem(text) {
  problem.textContent = text;
}

function showFieldProblem(input, text) {
  const message = document.getElementById(`${input.id}-error`);
  message.textContent = text;
  message.hidden = !text;
  if (text) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

function clearProblems() {
  showProblem("");
  for (const input of form.querySelectorAll("input")) showFieldProblem(input, "");
}

// Returns whether all visible fields are valid. Moves the focus to the first invalid field.
function focusInvalid() {
  const invalid = visibleInputs().find((input) => input.hasAttribute("aria-invalid"));
  if (invalid) invalid.focus();
  return !invalid;
}

// Shows the errors of a response (problem details, RFC 9457) at their fields, and other errors above the form.
function showErrors({ status, body }) {
  const errors = Array.isArray(body?.errors) ? body.errors : [];
  const others = errors.filter(({ loc, msg }) => {
    const input = visibleInputs().find((input) => input.id === String(loc?.at(-1)));
    if (input) showFieldProblem(input, msg);
    return !input;
  });
  if (others.length) showProblem(others.map(({ msg }) => msg).join(" "));
  else if (!errors.length) showProblem(body?.detail || `The request failed with status ${status}. Try again.`);
  focusInvalid();
}
