// Toolbar, panel, keyboard and help: what the user sets, and the page showing what is set.

const SHORTCUTS = [
  { keys: "Wheel, Up, Down", text: "next and previous slice" },
  { keys: "Page Up, Page Down", text: "five slices on" },
  { keys: "Shift + arrows", text: "move the crosshair" },
  { keys: "Shift + drag", text: "move the crosshair, whatever the tool", editor: true },
  { keys: "Ctrl + wheel, pinch", text: "zoom" },
  { keys: "One finger", text: "draw; two fingers move and zoom", editor: true },
  { keys: "Tap a small plane", text: "show it large" },
  { keys: "Middle or Alt + drag", text: "pan" },
  { keys: "Right drag", text: "contrast and brightness" },
  { keys: "B, E, V", text: "draw, erase, locate", editor: true },
  { keys: "G", text: "fill a closed outline", editor: true },
  { keys: "I", text: "fill the slices between drawn ones", editor: true },
  { keys: "1, 2, 3", text: "choose the label", editor: true },
  { keys: "W", text: "draw all parts at once", layered: true },
  { keys: "[ ]", text: "smaller or larger brush", editor: true },
  { keys: "D", text: "disc or ball", editor: true },
  { keys: "Space", text: "one dab at the crosshair", editor: true },
  { keys: "Ctrl + Z, Ctrl + Shift + Z", text: "undo, redo", editor: true },
  { keys: "1, 2, 3", text: "choose the volume", viewer: true },
  { keys: "S, C", text: "compare by swipe, by blinking", viewer: true },
  { keys: "P", text: "save the planes as a picture" },
  { keys: "O", text: "show or hide the labels" },
  { keys: "F", text: "radiological or neurological" },
  { keys: "R", text: "reset zoom and contrast" },
];

class Controls {
  constructor(root, host) {
    this.host = host;
    this.root = root;
    this.parts = {};
    for (const part of root.querySelectorAll("[data-part]")) this.parts[part.dataset.part] = part;
    this.actions = {
      undo: () => host.undo(),
      redo: () => host.redo(),
      clear: () => host.clear(),
      between: () => host.fillBetween(),
      swipe: () => host.swipe(),
      blink: () => host.blink(),
      picture: () => host.takePicture(),
      reset: () => host.resetView(),
      convention: () => host.switchConvention(),
      overlay: () => host.set({ showOverlay: !host.showOverlay }),
      retry: () => host.sync(),
      keep: () => this.showRestored(false),
      discard: () => host.discardRestored(),
      help: () => this.toggleHelp(),
    };
    this.bind();
    this.fillHelp();
  }

  bind() {
    const { root, host, parts } = this;
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-action]");
      if (button) this.actions[button.dataset.action]();
    });
    this.bindChoice(parts.tools, (tool) => host.set({ tool }));
    this.bindChoice(parts.shape, (shape) => host.set({ isBall: shape === "ball" }));
    this.bindChoice(parts.layers, (index) => host.chooseLayer(Number(index)));
    this.bindChoice(parts.labels, (label) => host.chooseLabel(Number(label)));
    this.setting("brushMm").addEventListener("input", (e) => host.set({ brushMm: Number(e.target.value) }));
    this.setting("opacity").addEventListener("input", (e) =>
      host.set({ opacity: Number(e.target.value) / 100, showOverlay: true }));
    this.setting("seam").addEventListener("input", (e) => host.swipe(Number(e.target.value) / 100));
    this.setting("preset").addEventListener("change", (e) => host.choosePreset(e.target.value));
    root.addEventListener("keydown", (event) => this.pressKey(event));
  }

  setting(name) {
    return this.root.querySelector(`[data-setting=${name}]`);
  }

  // A radio group of buttons: click or arrow keys choose, and only the chosen one is a tab stop.
  bindChoice(group, onChoose) {
    group.addEventListener("click", (event) => {
      const button = event.target.closest("[role=radio]");
      if (button && group.contains(button)) onChoose(button.dataset.value);
    });
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const buttons = [...group.querySelectorAll("[role=radio]")];
      const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
      next.focus();
      onChoose(next.dataset.value);
    });
  }

  showChoice(group, value) {
    for (const button of group.querySelectorAll("[role=radio]")) {
      const isChosen = button.dataset.value === String(value);
      button.setAttribute("aria-checked", String(isChosen));
      button.tabIndex = isChosen ? 0 : -1;
    }
  }

  // Rebuild the buttons that come from the value: layers and labels.
  showChoices() {
    const { host, parts } = this;
    const focused = [parts.layers, parts.labels].find((part) => part.contains(document.activeElement));
    const value = focused && document.activeElement.dataset.value;
    // A volume in the making has one layer: the choice stays where it was, so that nothing below it moves.
    this.hasChoice ||= host.layers.length > 1;
    parts.layers.hidden = !this.hasChoice || host.layers.length === 0;
    parts.layers.replaceChildren(...host.layers.map(({ name, hint }, index) => {
      const button = choice(index, name);
      if (hint) button.title = hint;
      return button;
    }));
    parts.labels.replaceChildren(...host.labels.map((label) => labelChip(label, host.editable)));
    if (host.layered && host.labels.length) parts.labels.prepend(layeredChip(host));
    parts.labels.hidden = parts.overlay.hidden = host.labels.length === 0;
    parts.labels.setAttribute("role", host.editable ? "radiogroup" : "list");
    // Who has come there by keyboard is not sent away.
    focused?.querySelector(`[data-value="${value}"]`)?.focus({ preventScroll: true });
  }

  refresh() {
    const { host, parts } = this;
    this.showChoice(parts.tools, host.tool);
    this.showChoice(parts.shape, host.isBall ? "ball" : "disc");
    this.showConvention();
    this.showChoice(parts.layers, host.layerIndex);
    if (host.editable) this.showChoice(parts.labels, host.label);
    this.button("undo").disabled = !host.drawing?.done.length;
    this.button("redo").disabled = !host.drawing?.undone.length;
    this.button("clear").disabled = !host.drawing || host.drawing.isEmpty;
    this.button("between").disabled = !host.drawing || host.drawing.isEmpty;
    this.showComparison();
    this.button("overlay").setAttribute("aria-pressed", String(host.showOverlay));
    this.setting("brushMm").value = host.brushMm;
    write(parts.brushMm, `${host.brushMm} mm`);
    this.setting("opacity").value = Math.round(host.opacity * 100);
    write(parts.opacity, `${Math.round(host.opacity * 100)} %`);
    for (const chip of parts.labels.children) {
      write(chip.querySelector("[data-part=ml]"), milliliters(host.labelMl(Number(chip.dataset.value))));
    }
    this.showHint();
    this.showContrast();
    this.showPoint();
  }

  showHint() {
    const { drawing, editable, labels, layer, props } = this.host;
    const limit = props.warn_below;
    const isSmall = limit && drawing && !drawing.isEmpty && drawing.totalMl < limit.ml;
    const hint = editable ? labels.length > 0 && props.hint : layer?.hint;
    const text = (isSmall ? limit.text : hint) || "";
    this.parts.hint.hidden = !text;
    write(this.parts.hint, text);
    this.parts.hint.classList.toggle("sc-warning", Boolean(isSmall));
  }

  showComparison() {
    const { host, parts } = this;
    parts.compare.hidden = !host.canCompare;
    this.button("swipe").setAttribute("aria-pressed", String(host.seam !== null));
    this.button("blink").setAttribute("aria-pressed", String(host.blinking !== null));
    this.setting("seam").value = Math.round((host.seam ?? 0.5) * 100);
  }

  button(action) {
    return this.root.querySelector(`[data-action=${action}]`);
  }

  showConvention() {
    const isRadiological = this.host.convention === "radiological";
    write(this.parts.sides, isRadiological ? "R | L" : "L | R");
    write(this.parts.convention, isRadiological ? "Radiological" : "Neurological");
    const side = isRadiological ? "right" : "left";
    const words = `The patient's left is on the ${side} of the screen (${this.host.convention}); switch sides (F)`;
    const button = this.button("convention");
    button.title = words;
    button.setAttribute("aria-label", words);
  }

  showContrast() {
    const { host, parts } = this;
    const layer = host.layer;
    const isImage = layer?.kind === "image";
    parts.contrast.classList.toggle("sc-off", !isImage);
    if (!isImage) return;
    this.setting("preset").value = host.customWindows[layer.colormap] ? "custom" : host.preset;
    parts.colorbar.hidden = layer.colormap !== "diverging";
    const [low, high] = host.windowOf(layer);
    write(parts.low, intensity(layer, low));
    write(parts.high, intensity(layer, high));
  }

  showPoint() {
    const { host, parts } = this;
    if (!host.grid) return;
    const voxel = host.grid.nearest(host.grid.toVoxel(host.crosshair));
    const offset = host.grid.offset(voxel);
    const mm = host.crosshair.map((v) => (Object.is(Math.round(v * 10), -0) ? 0 : v).toFixed(1).replace("-", "\u2212"));
    write(parts.coordinates, `x ${mm[0]}  y ${mm[1]}  z ${mm[2]} mm`);
    write(parts.intensity, host.layer?.kind === "image" ? intensity(host.layer, host.layer.voxels[offset]) : "");
    const source = host.layer?.kind === "labels" ? host.layer : host.overlay;
    const label = source ? host.labels.find(({ id }) => id === source.voxels[offset]) : null;
    write(parts.labelName, label ? label.name : "");
    parts.labelName.style.setProperty("--color", label ? label.color : "transparent");
  }

  showSaved(text) {
    write(this.parts.saved, text);
  }

  showMessage(text, canRetry) {
    const { message } = this.parts;
    message.hidden = !text;
    write(message.querySelector("span"), text || "");
    message.querySelector("button").hidden = !canRetry;
  }

  showRestored(isRestored) {
    this.parts.restored.hidden = !isRestored;
  }

  showEmpty(text) {
    this.parts.empty.hidden = !text;
    this.root.classList.toggle("sc-vacant", Boolean(text));
    write(this.parts.empty, text || "");
  }

  fillHelp() {
    const { host, parts } = this;
    const shown = SHORTCUTS.filter(({ editor, viewer, layered }) =>
      (host.editable ? !viewer : !editor) && (!layered || host.layered));
    parts.shortcuts.replaceChildren(...shown.flatMap(({ keys, text }) => [make("dt", keys), make("dd", text)]));
  }

  toggleHelp(isOpen = this.parts.help.hidden) {
    const opener = this.parts.bar.querySelector("[data-action=help]");
    this.parts.help.hidden = !isOpen;
    opener.setAttribute("aria-expanded", String(isOpen));
    (isOpen ? this.parts.help : opener).focus();
  }

  pressKey(event) {
    const { host } = this;
    if (event.key === "Escape" && !this.parts.help.hidden) return this.toggleHelp(false);
    if (!host.grid || event.target.closest("select")) return undefined;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = event.ctrlKey || event.metaKey;
    if (host.editable && command && (key === "z" || key === "y")) {
      event.preventDefault();
      return key === "y" || event.shiftKey ? host.redo() : host.undo();
    }
    if (command || event.altKey) return undefined;
    const action = this.keyAction(key, event);
    if (!action) return undefined;
    event.preventDefault();
    return action();
  }

  keyAction(key, event) {
    const { host } = this;
    const view = host.views.find(({ canvas }) => canvas === event.target);
    if (view) {
      const direction = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }[key];
      if (direction && event.shiftKey) return () => host.nudgeCrosshair(view, ...direction);
      if (direction) return () => host.stepSlice(view, direction[0] + direction[1]);
      if (key === "PageUp" || key === "PageDown") return () => host.stepSlice(view, key === "PageUp" ? 5 : -5);
      if ((key === " " || key === "Enter") && view.isThumbnail) return () => host.enlargePlane(view);
      if ((key === " " || key === "Enter") && host.isDrawingTool) return () => host.dab(view);
    }
    const digit = /^[1-9]$/.test(key) ? Number(key) : 0;
    if (digit && event.target.type !== "range") {
      if (host.editable) return host.labels[digit - 1] && (() => host.chooseLabel(host.labels[digit - 1].id));
      return host.layers[digit - 1] && (() => host.chooseLayer(digit - 1));
    }
    const common = {
      "?": () => this.toggleHelp(),
      o: () => host.set({ showOverlay: !host.showOverlay }),
      f: () => host.switchConvention(),
      r: () => host.resetView(),
      p: () => host.takePicture(),
    };
    const editing = {
      b: () => host.set({ tool: "paint" }),
      e: () => host.set({ tool: "erase" }),
      w: host.layered && (() => host.chooseLabel(0)),
      v: () => host.set({ tool: "move" }),
      g: () => host.set({ tool: "fill" }),
      i: () => host.fillBetween(),
      d: () => host.set({ isBall: !host.isBall }),
      "[": () => host.set({ brushMm: Math.max(2, host.brushMm - 2) }),
      "]": () => host.set({ brushMm: Math.min(60, host.brushMm + 2) }),
    };
    const comparing = { s: () => host.swipe(), c: () => host.blink() };
    return common[key] || (host.editable ? editing[key] : host.canCompare && comparing[key]);
  }
}

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function choice(value, text) {
  return make("button", text, { type: "button", role: "radio", "data-value": value });
}

function labelChip({ id, name, color }, isChoice) {
  const chip = isChoice ? choice(id, "") : make("span", "", { "data-value": id, role: "listitem" });
  const swatch = make("i", "");
  swatch.style.background = color;
  chip.append(swatch, make("span", name), make("small", "", { "data-part": "ml" }));
  return chip;
}

// The swatch shows the parts as the brush draws them, one inside the other.
function layeredChip(host) {
  const chip = labelChip({ id: 0, name: host.layered.name, color: "" }, true);
  const stops = host.layered.parts.map(([label, share], k, parts) =>
    `${host.colorOf(label)} ${(parts[k + 1]?.[1] ?? 0) * 100}% ${share * 100}%`);
  chip.querySelector("i").style.background = `radial-gradient(closest-side, ${stops.reverse().join(", ")})`;
  return chip;
}

function milliliters(ml) {
  return `${ml < 10 ? ml.toFixed(1) : Math.round(ml)} ml`;
}

// A byte of a layer in the units of its value range.
function intensity({ value_range: [low, high] }, byte) {
  const value = low + ((high - low) * clamp(byte, 0, 255)) / 255;
  return value.toFixed(high - low > 20 ? 0 : 2).replace("-", "\u2212");
}
