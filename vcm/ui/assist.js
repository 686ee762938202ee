// What Gradio leaves out for those who use a keyboard or a screen reader: every drop zone gets a name of its own, and of
// two buttons that take turns in one place, the one that comes gets the focus that the other had.
const TURNS = { generate: "cancel", cancel: "generate" };
let held = null; // which of them the keyboard is on

function nameDropZones() {
  for (const zone of document.querySelectorAll("button.upload-container")) {
    const title = zone.closest(".block")?.querySelector("[data-testid=block-label]")?.textContent.trim();
    if (!title) continue;
    const name = `${title}: drop a file, or press to choose one`;
    if (zone.getAttribute("aria-label") !== name) zone.setAttribute("aria-label", name);
  }
}

function passFocusOn() {
  if (!held || document.getElementById(held) || document.activeElement !== document.body) return;
  document.getElementById(TURNS[held])?.focus();
}

let isDue = false;
new MutationObserver(() => {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    nameDropZones();
    passFocusOn();
  });
}).observe(document.body, { childList: true, subtree: true });

document.addEventListener("focusin", ({ target }) => {
  // A mouse's focus stays where it fell: else the space bar, which scrolls the page, would cancel the run.
  held = target.id in TURNS && target.matches(":focus-visible") ? target.id : null;
});
document.addEventListener("pointerdown", () => {
  held = null;
});
// A key that is held down must not press the button that comes.
document.addEventListener("keydown", (event) => {
  if (event.repeat && event.target.id in TURNS) event.preventDefault();
});
nameDropZones();
