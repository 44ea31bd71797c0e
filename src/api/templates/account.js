// Sends the token of the link, and what the form asks for, to the operation that the form names.
"use strict";

const form = document.querySelector("form");
const button = form.querySelector("button");
const problem = document.getElementById("problem");
const done = document.getElementById("done");
let token = null;

// The token leaves the address bar at once, and with it the history and the bookmarks.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  history.replaceState(null, "", location.pathname);
  token = given || token;
  done.textContent = "";
  form.hidden = !token;
  showProblem(token ? "" : "This link is not complete. Please open it from the mail again.");
}

function showProblem(text) {
  problem.textContent = text;
}

function showFieldProblem(input, text) {
  const place = document.getElementById(`${input.id}-error`);
  place.textContent = text;
  place.hidden = !text;
  if (text) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

function clearProblems() {
  showProblem("");
  for (const input of form.querySelectorAll("input")) showFieldProblem(input, "");
}

// What is wrong with the input as far as it can be said here; the server decides.
function checkInput() {
  const { password, repeat } = form.elements;
  if (password && !password.value) showFieldProblem(password, "Please choose a password.");
  else if (password && password.value !== repeat.value) showFieldProblem(repeat, "The two passwords differ.");
  return focusInvalid();
}

// Whether no field is marked; else the first one that is gets the focus.
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

// Puts every error of a problem document (RFC 9457) where it belongs.
async function explain(response) {
  const answer = await response.json().catch(() => null);
  const errors = Array.isArray(answer?.errors) ? answer.errors : [];
  const others = errors.filter(({ loc, msg }) => {
    const input = form.querySelector(`input#${CSS.escape(String(loc?.at(-1)))}`);
    if (input) showFieldProblem(input, msg);
    return !input;
  });
  if (others.length) showProblem(others.map(({ msg }) => msg).join(" "));
  else if (!errors.length) showProblem(answer?.detail || `Something went wrong (${response.status}). Please try again.`);
  focusInvalid();
}

async function send() {
  const headers = { "content-type": "application/json" };
  let response;
  try {
    response = await fetch(form.dataset.endpoint, { method: "POST", headers, body: body() });
  } catch {
    showProblem("The server cannot be reached. Please try again in a moment.");
    return;
  }
  if (!response.ok) {
    await explain(response);
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

// A second link that is opened on the same page changes no more than the fragment.
addEventListener("hashchange", takeToken);
takeToken();
