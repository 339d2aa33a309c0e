// Lets screen readers announce the messages, which they do for text that changes and not for text that comes with a page.
// Takes their token out of the address: it has done its work, and nobody needs it in a bookmark.

const address = new URL(location.href);
address.searchParams.delete("flash");
history.replaceState(history.state, "", address);

setTimeout(() => {
  for (const message of document.querySelectorAll("main > [role]")) message.textContent = message.textContent;
}, 500); // milliseconds until a screen reader knows the page
