// Sends the token of the link and the input of the form to the operation of the form.

const button = form.querySelector("button");
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

// Returns whether the required fields are complete and the two passwords are equal. The server validates the values.
function checkInput() {
  const { password, repeat } = form.elements;
  if (password && !password.value) showFieldProblem(password, "Choose a password.");
  else if (password && password.value !== repeat.value) showFieldProblem(repeat, "The two passwords differ.");
  return focusInvalid();
}

function body() {
  const body = { token };
  for (const name of ["full_name", "password"]) {
    const value = form.elements[name]?.value;
    if (name === "full_name" ? value?.trim() : value) body[name] = value;
  }
  return JSON.stringify(body);
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
    showErrors({ status: response.status, body: await response.json().catch(() => null) });
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
