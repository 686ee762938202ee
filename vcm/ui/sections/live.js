// Live mode: a stroke presses the hidden button, and a drawing that has rested for a while presses Generate.
const REST_MS = 2500;
const SETTLE_MS = 200; // until the page shows what has ended
let isOn = false;
let timer = 0;

const PRESSED_MS = 1000; // within which the page has heard of it

const press = (id) => document.getElementById(id)?.click();
const isRunning = () => document.querySelector("#status .status")?.dataset.kind === "running";

// What has ended may be the run of a stroke before the last: then the last one's is still under way, and ends here, too.
function rest() {
  clearTimeout(timer);
  if (!isOn) return;
  timer = setTimeout(() => {
    if (!isRunning()) timer = setTimeout(generate, REST_MS);
  }, SETTLE_MS);
}

// Nobody has asked for the result, so the page stays where it is; and while a stroke is being
// drawn, or a scan is being read, it is no rest.
function generate() {
  if (isRunning() || window.vcmSliceCanvas.find("editor")?.isStroking) {
    timer = setTimeout(generate, REST_MS);
    return;
  }
  window.vcmLive.hasPressed = true;
  press("generate");
  setTimeout(() => (window.vcmLive.hasPressed = false), PRESSED_MS);
}

window.vcmLive = {
  hasPressed: false,
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
