// Sends a form once: the second click of a double click, or an impatient one, does nothing while the first is under way.
// Nothing tells a page that the answer was a download, or that the visitor did not wait: then it may be sent again soon.

const UNDER_WAY = 5000; // milliseconds

const sending = new Set();

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (sending.has(form)) {
    event.preventDefault();
    return;
  }
  sending.add(form);
  setTimeout(() => sending.delete(form), UNDER_WAY);
});

window.addEventListener("pageshow", () => sending.clear()); // also when the back button brings the page back
