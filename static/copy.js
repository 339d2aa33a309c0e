// Adds a copy button to each command and listing. Without scripts, or without a clipboard (plain http from another
// machine), it can be selected by hand as before.

const LABEL = "Copy";

function addButton(code) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = LABEL;
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent.trim());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = LABEL; }, 2000);
  });
  code.closest("pre").before(button);
}

if (navigator.clipboard) {
  document.querySelectorAll("[data-copy]").forEach(addButton);
}
