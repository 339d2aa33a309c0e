// Fills in which of the cookies a script can see. Those with HttpOnly are not in document.cookie.

const seen = new Set(document.cookie.split("; ").map((cookie) => cookie.split("=")[0]));

for (const cell of document.querySelectorAll("[data-seen]")) {
  cell.textContent = seen.has(cell.dataset.seen) ? "yes" : "no";
}
