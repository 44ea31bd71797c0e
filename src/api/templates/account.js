// Sends the token of the link and the input of the form to the operation of the form.
"use strict";

const form = document.querySelector("form");
const button = form.querySelector("button");
const problem = document.getElementById("problem");
const done = document.getElementById("done");
let token = null;

// Reads the token, and removes it from the address bar at once, so that it is not in the history or in bookmarks.
function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  history.replaceState(null, "", location.pathname);
  token = found || token;
  done.textContent = "";
  form.hidden = !token;
  showProblem(token ? "" : "This link is incomplete. Open it from the mail again.");
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

// Returns whether the required fields are complete. The server validates their values.
function checkInput() {
  const { password, repeat } = form.elements;
  if (password && !password.value) showFieldProblem(password, "Choose a password.");
  else if (password && password.value !== repeat.value) showFieldProblem(repeat, "The two passwords differ.");
  return focusInvalid();
}

// Returns whether all fields are valid. Moves the focus to the first invalid field.
function focusInvalid() {
  const invalid = form.querySelector("[aria-invalid]");
  if (invalid) invalid.focus();
  return !invalid;
}

function body() {
  const body = { token };
  for (const name of ["full_name", "password"]) {
    const value = form.elements[name]?.value;
    if (name === "full_name" ? value?.trim() : value) body[name] = value;
  }
  return JSON.stringify(body);
}

// Shows the errors of a response (problem details, RFC 9457) at their fields, and other errors above the form.
async function showErrors(response) {
  const details = await response.json().catch(() => null);
  const errors = Array.isArray(details?.errors) ? details.errors : [];
  const others = errors.filter(({ loc, msg }) => {
    const input = form.querySelector(`input#${CSS.escape(String(loc?.at(-1)))}`);
    if (input) showFieldProblem(input, msg);
    return !input;
  });
  if (others.length) showProblem(others.map(({ msg }) => msg).join(" "));
  else if (!errors.length) showProblem(details?.detail || `The request failed with status ${response.status}. Try again.`);
  focusInvalid();
}

async function send() {
  const headers = { "content-type": "application/json" };
  let response;
  try {
    response = await fetch(form.dataset.endpoint, { method: "POST", headers, body: body() });
  } catch {
    showProblem("The server is not reachable. Try again in a moment.");
    return;
  }
  if (!response.ok) {
    await showErrors(response);
    return;
  }
  token = null;
  form.reset();
  form.hidden = true;
  done.textContent = form.dataset.done;
  done.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearProblems();
  if (button.disabled || !checkInput()) return;
  button.disabled = true;
  await send();
  button.disabled = false;
});

// If the user opens another link to this page, only the fragment changes, and the browser does not reload the page.
addEventListener("hashchange", takeToken);
takeToken();
