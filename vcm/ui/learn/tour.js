// The tour: a modal dialog over the whole window, which keeps the focus, with a ring around the part that it speaks of.
const dialog = element.querySelector("dialog");
const ring = dialog.querySelector(".tour-ring");
const card = dialog.querySelector(".tour-card");
const part = (name) => dialog.querySelector(`[data-part=${name}]`);
const GAP = 12;
let steps = [];
let index = 0;
let opener = null;

const clamp = (value, low, high) => Math.max(low, Math.min(value, high));

// The page under the action bar cannot be seen.
const bottom = () => document.getElementById("action-bar")?.getBoundingClientRect().top ?? innerHeight;

function place() {
  if (!dialog.open) return;
  const target = document.querySelector(steps[index].target);
  const box = target.getBoundingClientRect();
  const isInBar = Boolean(target.closest("#action-bar"));
  const floor = isInBar ? innerHeight : bottom();
  const top = clamp(box.top - 6, 4, floor - 60);
  const height = clamp(box.bottom + 6, top + 40, floor - 4) - top;
  const left = Math.max(box.left - 6, 4);
  const width = Math.min(box.right + 6, innerWidth - 4) - left;
  Object.assign(ring.style, { top: `${top}px`, left: `${left}px`, width: `${width}px`, height: `${height}px` });
  const { offsetWidth, offsetHeight } = card;
  const below = top + height + GAP;
  let y = below + offsetHeight < innerHeight - GAP ? below : top - GAP - offsetHeight;
  if (y < GAP) y = floor - offsetHeight - GAP; // a part as high as the window: inside it, at its end
  const x = clamp(left + width / 2 - offsetWidth / 2, GAP, innerWidth - offsetWidth - GAP);
  Object.assign(card.style, { top: `${y}px`, left: `${x}px` });
}

function show(next) {
  index = clamp(next, 0, steps.length - 1);
  const step = steps[index];
  part("count").textContent = `${index + 1} of ${steps.length}`;
  part("title").textContent = step.title;
  part("text").textContent = step.text;
  dialog.querySelector("[data-turn=back]").disabled = index === 0;
  const forward = dialog.querySelector("[data-turn=next]");
  forward.textContent = index === steps.length - 1 ? "Done" : "Next";
  const target = document.querySelector(step.target);
  const isHigh = target.offsetHeight > innerHeight * 0.6;
  target.scrollIntoView({ block: isHigh ? "start" : "center", behavior: "instant" });
  place();
  forward.focus();
}

function turn(where) {
  if (where === "end" || (where === "next" && index === steps.length - 1)) dialog.close();
  else show(index + (where === "next" ? 1 : -1));
}

function start(button) {
  steps = props.steps.filter(({ target }) => document.querySelector(target)?.offsetHeight);
  if (!steps.length) return;
  opener = button;
  dialog.showModal(); // Esc closes it, and Tab stays inside
  show(0);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-tour]");
  if (button) start(button);
});
dialog.addEventListener("click", (event) => {
  const button = event.target.closest("[data-turn]");
  if (button) turn(button.dataset.turn);
});
dialog.addEventListener("keydown", (event) => {
  const where = { ArrowRight: "next", ArrowLeft: "back" }[event.key];
  if (where && !(where === "next" && index === steps.length - 1)) turn(where);
});
dialog.addEventListener("close", () => {
  opener?.scrollIntoView({ block: "nearest" });
  opener?.focus();
});
addEventListener("resize", place);
addEventListener("scroll", place, { passive: true });
