// A link to what the page is set to: made from what Python packed, copied, and read again when a page opens on one.
const PREFIX = "#recipe=";
const READY_MS = 100;
const part = (name) => element.querySelector(`[data-part=${name}]`);

// Outside of https and localhost there is no clipboard, but an old way to copy what is selected.
async function copy(link) {
  const field = part("link");
  try {
    await navigator.clipboard.writeText(link);
    return true;
  } catch {
    field.focus({ preventScroll: true });
    field.select();
    return document.execCommand("copy");
  }
}

async function show() {
  if (!props.value) return;
  const { text, note } = props.value;
  const link = `${location.origin}${location.pathname}${location.search}${PREFIX}${text}`;
  part("box").hidden = false;
  part("link").value = link;
  const isCopied = await copy(link);
  part("say").textContent = `${isCopied ? "Link copied." : "Your browser keeps pages from copying: copy the link above."} ${note}`;
  part("say").scrollIntoView({ block: "nearest" });
}

// The link is used once: a reload brings back what was drawn since, as it does without a link.
function open() {
  if (!location.hash.startsWith(PREFIX)) return;
  const text = location.hash.slice(PREFIX.length);
  window.vcmOpenedLink = true; // what is said of it is not to be lost to the drawing that the browser had kept
  history.replaceState(history.state, "", location.pathname + location.search);
  const whenReady = () => {
    if (window.vcmSliceCanvas?.find("editor")?.drawing) trigger("submit", { text });
    else setTimeout(whenReady, READY_MS);
  };
  whenReady();
}

part("link").addEventListener("focus", (event) => event.target.select());
window.addEventListener("hashchange", open);
watch("value", show);
open();
