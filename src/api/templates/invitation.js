// Shows an invitation. The recipient registers or signs in to accept it. Declining needs no account.

const invitation = document.getElementById("invitation");
const summary = document.getElementById("summary");
const intro = document.getElementById("intro");
const accept = document.getElementById("accept");
const decline = document.getElementById("decline");
const { api, note } = invitation.dataset;

// The texts of each step of the form, and the `autocomplete` of its password field. Each field names its steps in the attribute
// `data-steps`.
const STEPS = {
  "sign-up": {
    intro: "Choose a password to create your account. If you have registered with this address before, it replaces the old password.",
    button: "Create account and accept",
    password: "new-password",
  },
  "sign-in": { intro: "Sign in with the account of this address.", button: "Sign in and accept", password: "current-password" },
  code: { intro: "Enter a code to complete the sign-in.", button: "Accept the invitation", password: "current-password" },
};

let token = null;
let organization = "";
let step = null;
let challenge = null;

// Reads the token, and removes it from the address bar at once, so that it is not in the history or in bookmarks.
async function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  history.replaceState(null, "", location.pathname);
  token = found || token;
  done.textContent = "";
  invitation.hidden = true;
  clearProblems();
  if (token) await preview();
  else showProblem("This link is incomplete. Open it from the mail again.");
}

// Sends a request. Returns the response with its body. Without a response, shows the problem and returns null.
async function post(path, body, headers) {
  try {
    const response = await fetch(`${api}${path}`, { method: "POST", headers, body });
    return { ok: response.ok, status: response.status, body: await response.json().catch(() => null) };
  } catch {
    showProblem("The server is not reachable. Try again in a moment.");
    return null;
  }
}

function postJson(path, body, headers) {
  return post(path, JSON.stringify(body), { "content-type": "application/json", ...headers });
}

async function preview() {
  const asked = token;
  const response = await postJson("/invitations/preview", { token });
  if (asked !== token) return;
  if (!response?.ok) {
    if (response) showErrors(response);
    // Unless the status is 400, the link may still be valid. The token returns to the address bar, so that the user can reload.
    if (response?.status !== 400) history.replaceState(null, "", `#token=${token}`);
    return;
  }
  const { inviter, role, email, account, expires_at } = response.body;
  organization = response.body.organization;
  const until = new Date(expires_at).toLocaleDateString("en", { dateStyle: "long" });
  const article = role === "admin" ? "an" : "a";
  summary.textContent =
    `${inviter || "A member"} invites ${email} to join ${organization} as ${article} ${role}. The invitation is valid until ${until}.`;
  invitation.hidden = false;
  showStep(account === "new" ? "sign-up" : "sign-in");
}

function showStep(name) {
  step = name;
  form.elements.code.value = "";
  intro.textContent = STEPS[step].intro;
  accept.textContent = STEPS[step].button;
  form.elements.password.autocomplete = STEPS[step].password;
  for (const field of form.querySelectorAll("[data-steps]")) field.hidden = !field.dataset.steps.split(" ").includes(step);
}

// Returns whether the required fields are complete and the two passwords are equal. The server validates the values.
function checkInput() {
  for (const input of visibleInputs()) {
    if (input.required && !input.value) showFieldProblem(input, "This field is required.");
  }
  const { password, repeat } = form.elements;
  if (step === "sign-up" && password.value && repeat.value && password.value !== repeat.value) {
    showFieldProblem(repeat, "The two passwords differ.");
  }
  return focusInvalid();
}

// Creates the account, or takes over an unverified account with the address, and accepts the invitation: all with one request.
async function signUp() {
  const { password, full_name } = form.elements;
  const body = { token, password: password.value };
  if (full_name.value.trim()) body.full_name = full_name.value;
  const response = await postJson("/invitations/register", body);
  if (!response) return;
  if (response.ok) {
    finish(`Your account is ready, and you are a member of ${organization} now. You can sign in with your address and the new password.${note}`);
    return;
  }
  showErrors(response);
  if (response.body?.code === "email_taken") showStep("sign-in");
}

// Signs in with the password, or in the step `code` with a code. Then accepts the invitation.
async function signIn() {
  const { username, password, code } = form.elements;
  const response =
    step === "code"
      ? await postJson("/auth/login/two-factor", { challenge_token: challenge, code: code.value })
      : await post("/auth/login", new URLSearchParams({ username: username.value, password: password.value }));
  if (!response) return;
  if (response.ok) {
    await acceptWith(response.body.access_token);
  } else if (response.body?.challenge_token) {
    challenge = response.body.challenge_token;
    showStep("code");
    code.focus();
  } else {
    // Shows the password step again after an error, because a challenge allows only a few codes.
    showStep("sign-in");
    showErrors(response);
  }
}

// Accepts the invitation and ends the session, which was created only for this request. The page does not store the access token.
async function acceptWith(accessToken) {
  const headers = { authorization: `Bearer ${accessToken}` };
  const response = await postJson("/invitations/accept", { token }, headers);
  await fetch(`${api}/auth/logout`, { method: "POST", headers }).catch(() => null);
  showStep("sign-in");
  if (response?.ok) finish(`You are a member of ${organization} now. You can close this page.`);
  else if (response) showErrors(response);
}

async function sendDecline() {
  const response = await postJson("/invitations/decline", { token });
  if (response?.ok) finish("You have declined the invitation. You can close this page.");
  else if (response) showErrors(response);
}

function finish(text) {
  token = null;
  form.reset();
  invitation.hidden = true;
  done.textContent = text;
  done.focus();
}

// Runs an action, unless another action is running.
async function run(action) {
  if (accept.disabled) return;
  const focused = document.activeElement;
  accept.disabled = decline.disabled = true;
  await action();
  accept.disabled = decline.disabled = false;
  // A button loses the focus when it is disabled.
  if (document.activeElement === document.body) focused.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearProblems();
  if (checkInput()) run(step === "sign-up" ? signUp : signIn);
});

decline.addEventListener("click", () => {
  clearProblems();
  run(sendDecline);
});

// If the user opens another link to this page, only the fragment changes, and the browser does not reload the page.
addEventListener("hashchange", takeToken);
takeToken();
