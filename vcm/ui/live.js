// Live mode: a stroke presses the hidden button, and a drawing that has rested for a while presses Generate.
const REST_MS = 2500;
let isOn = false;
let timer = 0;

const press = (id) => document.getElementById(id)?.click();
const isRunning = () => document.querySelector("#status .status")?.dataset.kind === "running";

// A run that has ended may be of a stroke before the last.
function finish() {
  if (isRunning()) rest();
  else press("generate");
}

function rest() {
  clearTimeout(timer);
  if (isOn) timer = setTimeout(finish, REST_MS);
}

window.vcmLive = {
  turn(value) {
    isOn = Boolean(value);
    clearTimeout(timer);
  },
  stroke() {
    clearTimeout(timer);
    if (!isOn) return false;
    window.vcmIsCancelled = true; // a full run that is under way makes room: that is no failure
    press("live-go");
    return true;
  },
  rest,
  stop() {
    clearTimeout(timer);
  },
};
