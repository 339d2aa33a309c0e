// An experiment takes some seconds. Says so when its form is sent, and keeps it from being sent twice.

function show(form, waiting) {
  form.querySelector("[role=status]").textContent = waiting ? form.dataset.wait : "";
  form.querySelector("button[type=submit]").disabled = waiting;
}

for (const form of document.querySelectorAll("form[data-wait]")) {
  form.addEventListener("submit", () => show(form, true));
  window.addEventListener("pageshow", () => show(form, false)); // also when the back button brings the page back
}

const outcome = document.querySelector("#outcome");
if (outcome) {
  outcome.tabIndex = -1;
  outcome.focus();
}
