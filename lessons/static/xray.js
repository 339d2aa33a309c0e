// Lets the times in the X-ray count down. Without scripts they stand as they were when the page was made.

const left = (seconds) => {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const shown = [];
  for (const [length, unit] of parts) {
    const count = Math.floor(seconds / length);
    seconds -= count * length;
    if (count || (unit === "s" && !shown.length)) shown.push(`${count} ${unit}`);
  }
  return shown.slice(0, 2).join(" ");
};

const show = () => document.querySelectorAll("[data-until]").forEach((element) => {
  const seconds = (Date.parse(element.dataset.until) - Date.now()) / 1000;
  element.textContent = seconds > 0 ? left(Math.floor(seconds)) : "no time: it is over";
});

show();
setInterval(show, 1000);
