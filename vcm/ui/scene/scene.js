// The 3-D view: plotly.js and the figure are fetched when the view is first seen; Plotly.react keeps the camera.
const root = element.querySelector("[data-part=root]");
const plot = root.querySelector("[data-part=plot]");
const message = root.querySelector("[data-part=message]");
const EMPTY = "Generate a volume to see brain and tumor in 3D.";
const CONFIG = {
  displaylogo: false,
  responsive: false,
  showTips: false, // its notices would cover the page
  modeBarButtonsToRemove: ["toImage", "resetCameraLastSave3d", "tableRotation"],
};
const NARROW = 520; // px, where a legend at the side would lie over the tumor
const PICTURE_SCALE = 2; // sharp enough for print
const FILE_NAME = "brain-and-tumor";
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

// The legend stands above the brain; the tools, which a finger hardly hits, would lie over it.
function fitPhone(layout) {
  Object.assign(layout.legend, { orientation: "h", font: { ...layout.legend.font, size: 11 } });
  layout.scene.domain = { y: [0, 0.78] };
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
    const isNarrow = plot.clientWidth < NARROW;
    if (isNarrow) fitPhone(figure.layout);
    await Plotly.react(plot, figure.data, figure.layout, { ...CONFIG, displayModeBar: isNarrow ? false : "hover" });
    shown = url;
    root.dataset.shown = "true";
    for (const name of ["save", "how"]) root.querySelector(`[data-part=${name}]`).hidden = false;
    say("");
  } catch (error) {
    console.error(error);
    say("The 3D view could not be loaded; open this tab again to retry.");
  }
  root.setAttribute("aria-busy", "false");
  return undefined;
}

// ---- Files ---------------------------------------------------------------------------------------------------------

function offer(href, name) {
  const link = document.createElement("a");
  Object.assign(link, { href, download: name });
  link.click();
}

async function savePicture() {
  const { clientWidth: width, clientHeight: height } = plot;
  const url = await window.Plotly.toImage(plot, { format: "png", width, height, scale: PICTURE_SCALE });
  offer(url, `${FILE_NAME}.png`);
}

// One file with plotly.js inside, seen as it is seen now; it needs no network and no server.
async function savePage() {
  const [response, { data, layout }] = await Promise.all([fetch(props.value.script.url), loadFigure(shown)]);
  if (!response.ok) throw new Error(`plotly.js answered ${response.status}`);
  const script = (await response.text()).replaceAll("</script", "<\\/script");
  layout.scene.camera = plot._fullLayout.scene._scene.getCamera();
  data.forEach((trace, index) => (trace.visible = plot._fullData[index].visible)); // as chosen in the legend
  const figure = JSON.stringify([data, layout]).replaceAll("<", "\\u003c");
  const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Brain and tumor in 3D</title>
<style>html, body, #plot { margin: 0; height: 100%; background: #0b0d10; }</style>
<div id="plot"></div>
<script>${script}</script>
<script>Plotly.newPlot("plot", ...${figure}, { displaylogo: false, responsive: true });</script>
</html>
`;
  const url = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  offer(url, `${FILE_NAME}.html`);
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // a slow disk may still be reading
}

root.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-save]");
  if (!button) return;
  button.disabled = true;
  try {
    await (button.dataset.save === "picture" ? savePicture() : savePage());
    say("");
  } catch (error) {
    console.error(error);
    say("The file could not be made; please try again.");
  }
  button.disabled = false;
});

new IntersectionObserver((entries) => {
  seen = entries.some((entry) => entry.isIntersecting);
  if (seen) show();
}).observe(root);
new ResizeObserver(() => {
  if (shown && root.clientWidth) window.Plotly.Plots.resize(plot);
}).observe(root);
watch("value", show);
show();
