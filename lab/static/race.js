// Sends the requests of a race from this browser, all at once, and tells the server how long each of them had to wait
// here before it could be sent. Without this script the form makes the server send them.

const form = document.querySelector("form.race");
const status = form.querySelector(".status");

async function ask(address, fields) {
  const answer = await fetch(address, { method: "POST", body: fields, headers: { Accept: "application/json" } });
  const told = await answer.json();
  if (!answer.ok) {
    throw new Error(told.error);
  }
  return told;
}

// The time between the call of fetch and the moment a connection was free for it, as the browser itself measured it.
function waited(address) {
  const [entry] = performance.getEntriesByName(address, "resource");
  return entry?.requestStart ? entry.requestStart - entry.startTime : 0;
}

async function race() {
  const run = await ask(form.dataset.begin, new URLSearchParams(new FormData(form)));
  performance.clearResourceTimings();
  const addresses = Array.from({ length: run.requests }, (_, index) =>
    new URL(`${run.hit}?run=${run.run}&number=${index + 1}`, location).href);
  let back = 0;
  await Promise.allSettled(addresses.map(async (address) => {
    await (await fetch(address, { method: "POST" })).text();
    back += 1;
    status.textContent = `${back} of ${run.requests} are back.`;
  }));
  await ask(form.dataset.finish, new URLSearchParams({ run: run.run, outside: addresses.map(waited).join() }));
  return `${form.dataset.page}?run=${run.run}#outcome`;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  status.textContent = "They are on their way.";
  try {
    location.assign(await race());
  } catch (error) {
    status.textContent = `The race could not be run: ${error.message}`;
  } finally {
    button.disabled = false;
  }
});
