// Lets screen readers announce the messages, which they do for text that changes and not for text that comes with a page.

setTimeout(() => {
  for (const message of document.querySelectorAll("main > [role]")) message.textContent = message.textContent;
}, 500); // milliseconds until a screen reader knows the page
