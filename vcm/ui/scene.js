// The 3-D view: plotly.js and the figure are fetched when the view is first seen; Plotly.react keeps the camera.
const root = element.querySelector("[data-part=root]");
const plot = root.querySelector("[data-part=plot]");
const message = root.querySelector("[data-part=message]");
const EMPTY = "Generate a volume to see brain and tumor in 3D.";
const CONFIG = { displaylogo: false, responsive: false, modeBarButtonsToRemove: ["resetCameraLastSave3d", "tableRotation"] };
let shown = null;
let seen = false;

const say = (text) => {
  message.textContent = text;
};

function hasWebGL() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
}

function loadScript(url) {
  window.vcmPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      window.vcmPlotly = undefined; // so that the next look tries again
      reject(new Error("plotly.js did not load"));
    };
    document.head.append(script);
  });
  return window.vcmPlotly;
}

async function loadFigure(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`the figure answered ${response.status}`);
  const text = await new Response(response.body.pipeThrough(new DecompressionStream("gzip"))).text();
  return JSON.parse(text);
}

async function show() {
  const { value } = props;
  if (!value) return say(shown ? "" : EMPTY);
  const { url } = value.figure;
  if (!seen || url === shown) return undefined;
  if (!hasWebGL()) return say("This browser has no WebGL, which the 3D view needs.");
  root.setAttribute("aria-busy", "true");
  if (!shown) say("Loading the 3D view\u2026");
  try {
    const [Plotly, figure] = await Promise.all([loadScript(value.script.url), loadFigure(url)]);
    if (props.value?.figure.url !== url) return undefined; // a newer one is on its way
    await Plotly.react(plot, figure.data, figure.layout, CONFIG);
    shown = url;
    root.dataset.shown = "true";
    say("");
  } catch (error) {
    console.error(error);
    say("The 3D view could not be loaded; open this tab again to retry.");
  }
  root.setAttribute("aria-busy", "false");
  return undefined;
}

new IntersectionObserver((entries) => {
  seen = entries.some((entry) => entry.isIntersecting);
  if (seen) show();
}).observe(root);
new ResizeObserver(() => {
  if (shown && root.clientWidth) window.Plotly.Plots.resize(plot);
}).observe(root);
watch("value", show);
show();
