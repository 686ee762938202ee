// The list of finished runs: a button shows a run again, and two columns of radio buttons choose A and B.
const part = (name) => element.querySelector(`[data-part=${name}]`);
const runs = () => props.value || []; // an empty list arrives as an empty string
const chosen = { a: null, b: null };
const picked = { a: false, b: false }; // by the visitor, rather than by what is newest

// A sentence of this list is out of date as soon as anything else is done.
const say = (text) => {
  part("say").textContent = text;
};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Lines break between the facts, never inside one.
const breakable = (text) =>
  text.split(" \u00b7 ").flatMap((fact, index) => [...(index ? [" \u00b7 "] : []), make("i", {}, fact)]);

function makeRun({ number, time, text, picture, key }) {
  const clock = new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const title = make("b", {}, `Run ${number}`, make("time", { datetime: time }, clock));
  const button = make(
    "button",
    { type: "button", class: "history-run", "data-run": number, "data-key": key },
    make("img", { src: picture, alt: "", width: 36, height: 48 }),
    make("span", {}, title, make("small", {}, ...breakable(text))),
  );
  const choices = ["a", "b"].map((side) =>
    make(
      "label",
      { class: "history-choice" },
      make("input", { type: "radio", name: `history-${side}`, value: number, "aria-label": `${side.toUpperCase()}: run ${number}` }),
      make("span", { "aria-hidden": "true" }, side.toUpperCase()),
    ));
  return make("li", {}, button, ...choices);
}

// The newest is B and the one before it is A, unless the visitor has chosen others that are still there.
function choose() {
  const numbers = runs().map(({ number }) => number);
  for (const side of ["a", "b"]) picked[side] &&= numbers.includes(chosen[side]);
  if (!picked.b) chosen.b = numbers.find((number) => !picked.a || number !== chosen.a) ?? null;
  if (!picked.a) chosen.a = numbers.find((number) => number !== chosen.b) ?? null;
  for (const side of ["a", "b"]) {
    for (const input of element.querySelectorAll(`input[name=history-${side}]`)) {
      input.checked = Number(input.value) === chosen[side];
    }
  }
}

function mark() {
  for (const button of element.querySelectorAll("[data-run]")) {
    if (button.dataset.key === props.current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function show() {
  const focused = document.activeElement?.closest?.("[data-run]")?.dataset.run;
  part("list").replaceChildren(...runs().map(makeRun));
  part("empty").hidden = runs().length > 0;
  part("compare").hidden = runs().length < 2;
  part("list").classList.toggle("history-pair", runs().length > 1);
  choose();
  mark();
  say("");
  if (focused) element.querySelector(`[data-run="${focused}"]`)?.focus({ preventScroll: true });
}

// What was asked for must be seen: the list may stand far below the viewer, and the 3D view compares nothing.
function look(views) {
  const look = document.getElementById("look");
  if (!views.includes(look.dataset.view ?? "slices")) document.getElementById("tab-slices").click();
  document.getElementById("views").scrollIntoView({ block: "nearest" });
}

element.addEventListener("click", (event) => {
  const run = event.target.closest("[data-run]");
  if (run) {
    say("");
    look(["slices", "pair", "scene"]);
    trigger("select", { run: Number(run.dataset.run) });
  } else if (event.target.closest("[data-part=go]")) {
    if (chosen.a === chosen.b) return say("A and B are the same run: choose two different ones.");
    say("");
    look(["slices", "pair"]);
    trigger("submit", { a: chosen.a, b: chosen.b });
  }
  return undefined;
});
element.addEventListener("change", (event) => {
  const side = event.target.name?.replace("history-", "");
  if (!(side in chosen)) return;
  chosen[side] = Number(event.target.value);
  picked[side] = true;
  say("");
});
watch("value", show);
watch("current", mark);
show();
