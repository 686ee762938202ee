// One plane on the screen: its canvas, letters and slider, and the way between pixels and voxels.

const MOST_ENLARGED_PIXELS = 2_000_000;
const SEAM_GAP = 8; // px, between the line of a comparison and the names of its sides
const SIDE_NAME_BOTTOM = 28; // above the letter of the side

class PlaneView {
  // `host` is the SliceCanvas: it owns what is shown (grid, layers, overlay, crosshair, zoom); the view only draws it.
  constructor(name, cell, host) {
    this.name = name;
    this.cell = cell;
    this.host = host;
    this.canvas = cell.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.slider = cell.querySelector("input");
    this.position = cell.querySelector("[data-part=position]");
    this.letters = [...cell.querySelectorAll("[data-side]")];
    this.isThumbnail = false;
    this.width = 0;
    this.height = 0;
    this.fit = 1; // CSS pixels per millimetre at zoom 1
    this.images = []; // one slot for each base layer on show
    this.outlines = new Map();
  }

  place({ width, height, fit, isThumbnail = false }) {
    this.fit = fit;
    this.isThumbnail = isThumbnail;
    this.cell.classList.toggle("sc-thumbnail", isThumbnail);
    this.resize(Math.floor(width), Math.floor(height));
  }

  resize(width, height) {
    const ratio = window.devicePixelRatio || 1;
    if (width === this.width && height === this.height && ratio === this.ratio) return;
    Object.assign(this, { width, height, ratio });
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
  }

  get scale() {
    return this.fit * (this.isThumbnail ? 1 : this.host.zoom);
  }

  get center() {
    return this.isThumbnail ? this.host.grid.extent.map((mm) => mm / 2) : this.host.center;
  }

  get rightward() {
    return isMirrored(this.name, this.host.convention) ? -1 : 1;
  }

  frame() {
    const { grid, crosshair, convention } = this.host;
    return sliceFrame(grid, this.name, grid.nearest(grid.toVoxel(crosshair)), convention);
  }

  toScreen(body) {
    const { across, up } = PLANES[this.name];
    return [
      this.width / 2 + this.rightward * (body[across] - this.center[across]) * this.scale,
      this.height / 2 - (body[up] - this.center[up]) * this.scale,
    ];
  }

  // The body coordinates under a point of the canvas, in the slice on show.
  bodyAt([x, y]) {
    const { grid, crosshair } = this.host;
    const { across, up } = PLANES[this.name];
    const body = grid.toBody(grid.nearest(grid.toVoxel(crosshair)));
    body[across] = this.center[across] + (this.rightward * (x - this.width / 2)) / this.scale;
    body[up] = this.center[up] - (y - this.height / 2) / this.scale;
    return body;
  }

  voxelAt(point) {
    return this.host.grid.fromBody(this.bodyAt(point));
  }

  pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  render() {
    const { host, context } = this;
    if (!this.width || !this.height) return;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!host.grid) return;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    const frame = this.frame();
    this.showPosition(frame);
    for (const [slot, share] of host.baseShares().entries()) this.paintBase(share, slot, frame);
    const overlay = host.overlayOnShow();
    // A filled label would hide the very place where a difference map has something to show, and it would look like a
    // lesion in a volume that was made without one.
    const isOutlined = host.layer?.colormap === "diverging" || host.layer?.is_outlined;
    if (overlay) this.paintLabels(overlay, isOutlined ? 0 : host.opacity, Math.min(1, host.opacity + 0.45), frame);
    this.paintSeam();
    this.paintCrosshair();
    this.paintBrush();
  }

  paintSeam() {
    const { context, host } = this;
    if (host.seam === null || !host.canCompare) return;
    const x = host.seam * this.width;
    context.fillStyle = "#ffffff";
    context.fillRect(x - 1, 0, 2, this.height);
    if (this.isThumbnail) return;
    const [first, second] = host.layers;
    this.paintSideName(first.name, x - SEAM_GAP, "right");
    this.paintSideName(second.name, x + SEAM_GAP, "left");
  }

  // Which volume is on which side of the line; `align` is the side of the text that stands at `x`.
  paintSideName(name, x, align) {
    const { context } = this;
    context.save();
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = align;
    context.textBaseline = "bottom";
    context.shadowColor = "#000000";
    context.shadowBlur = 4;
    context.fillText(name, x, this.height - SIDE_NAME_BOTTOM);
    context.restore();
  }

  // `share` is a layer and the part of the plane's width, from 0 to 1, in which it is shown.
  paintBase({ layer, from, to }, slot, frame) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(from * this.width, 0, (to - from) * this.width, this.height);
    context.clip();
    if (layer.kind === "labels") {
      this.paintLabels({ key: layer.url, voxels: layer.voxels }, 0.85, 1, frame);
    } else {
      const [left, top, width, height] = this.sliceBox(frame);
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      context.drawImage(this.sliceImage(layer, slot, frame), left, top, width, height);
    }
    context.restore();
  }

  sliceBox(frame) {
    const { across, up } = PLANES[this.name];
    const { extent } = this.host.grid;
    const corner = [0, 0, 0];
    corner[across] = this.rightward > 0 ? 0 : extent[across];
    corner[up] = extent[up];
    const width = frame.width * frame.mmRight * this.scale;
    const height = frame.height * frame.mmDown * this.scale;
    return [...this.toScreen(corner), width, height];
  }

  sliceImage(layer, slot, frame) {
    const voxelPixels = this.scale * this.ratio * Math.max(frame.mmRight, frame.mmDown);
    const most = Math.max(1, Math.floor(Math.sqrt(MOST_ENLARGED_PIXELS / (frame.width * frame.height))));
    const factor = clamp(Math.ceil(voxelPixels / 1.5), 1, Math.min(4, most));
    const image = (this.images[slot] = this.images[slot] || { canvas: document.createElement("canvas") });
    const slice = [layer.url, frame.start, frame.stepRight, factor].join();
    const colors = this.host.colorsOf(layer);
    if (image.slice === slice && image.colors === colors) return image.canvas;
    if (image.slice !== slice) {
      image.bytes = enlarge(cutSlice(layer.voxels, frame), frame.width, frame.height, factor);
      image.slice = slice;
    }
    image.colors = colors;
    const { canvas, bytes } = image;
    canvas.width = frame.width * factor;
    canvas.height = frame.height * factor;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(canvas.width, canvas.height);
    const packed = new Uint32Array(pixels.data.buffer);
    for (let i = 0; i < bytes.length; i++) packed[i] = colors[bytes[i]];
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  paintLabels(source, fillOpacity, lineOpacity, frame) {
    const { context, scale } = this;
    const [left, top] = this.sliceBox(frame);
    context.save();
    context.translate(left, top);
    context.scale(scale, scale);
    context.lineWidth = 1.25 / scale;
    context.lineJoin = "round";
    for (const { path, color } of this.outlinesOf(source, frame)) {
      context.globalAlpha = fillOpacity;
      context.fillStyle = color;
      context.fill(path, "evenodd");
      context.globalAlpha = lineOpacity;
      context.strokeStyle = color;
      context.stroke(path);
    }
    context.restore();
  }

  outlinesOf({ key, voxels }, frame) {
    const wanted = [key, frame.start, frame.stepRight].join();
    const kept = this.outlines.get(voxels);
    if (kept && kept.wanted === wanted) return kept.paths;
    const slice = cutSlice(voxels, frame);
    const present = new Set(slice);
    const paths = this.host.labels
      .filter(({ id }) => present.has(id))
      .map(({ id, color }) => ({ color, path: outlineLabel(slice, frame, id) }));
    if (this.outlines.size > 3) this.outlines.clear();
    this.outlines.set(voxels, { wanted, paths });
    return paths;
  }

  paintCrosshair() {
    const { context, host } = this;
    const [x, y] = this.toScreen(host.grid.toBody(host.grid.toVoxel(host.crosshair))).map((v) => Math.round(v) + 0.5);
    const gap = this.isThumbnail ? 4 : 9;
    context.globalAlpha = host.isStroking ? 0.3 : 0.8;
    context.strokeStyle = "#5fd0dc";
    context.lineWidth = 1;
    context.beginPath();
    for (const [from, to] of [[0, x - gap], [x + gap, this.width]]) if (to > from) {
      context.moveTo(from, y);
      context.lineTo(to, y);
    }
    for (const [from, to] of [[0, y - gap], [y + gap, this.height]]) if (to > from) {
      context.moveTo(x, from);
      context.lineTo(x, to);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  paintBrush() {
    const { context, host } = this;
    if (!host.hover || host.hover.view !== this || !host.isDrawingTool || host.tool === "fill") return;
    const [x, y] = host.hover.point;
    for (const [label, share] of host.brushParts) {
      context.beginPath();
      context.arc(x, y, Math.max(2, (host.brushMm / 2) * share * this.scale), 0, 2 * Math.PI);
      context.lineWidth = 3;
      context.strokeStyle = "rgba(0, 0, 0, 0.55)";
      context.stroke();
      context.lineWidth = 1.5;
      context.strokeStyle = host.colorOf(label);
      context.setLineDash(label ? [] : [4, 4]);
      context.stroke();
    }
    context.setLineDash([]);
  }

  showPosition(frame) {
    const { host, slider } = this;
    const { through } = PLANES[this.name];
    const mm = host.crosshair[through];
    const [low, high] = AXIS_ENDS[through];
    const text = `${mm < 0 ? low : high} ${Math.abs(Math.round(mm))} mm`;
    if (this.position.textContent !== text) this.position.textContent = text;
    slider.max = frame.count - 1;
    slider.value = frame.ascending ? frame.index : frame.count - 1 - frame.index;
    slider.setAttribute("aria-valuetext", text);
    const letters = edgeLetters(this.name, host.convention);
    for (const letter of this.letters) {
      if (letter.textContent !== letters[letter.dataset.side]) letter.textContent = letters[letter.dataset.side];
    }
  }
}

// The planes side by side on one canvas, each with its letters, as large as they are on the screen.
function joinPlanes(views) {
  const gap = 6;
  const joined = document.createElement("canvas");
  const ratio = views[0].ratio;
  joined.width = views.reduce((sum, { canvas }) => sum + canvas.width + gap, -gap);
  joined.height = Math.max(...views.map(({ canvas }) => canvas.height));
  const context = joined.getContext("2d", { alpha: false });
  context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  let left = 0;
  for (const { name, canvas, host } of views) {
    context.drawImage(canvas, left, 0);
    const letters = edgeLetters(name, host.convention);
    const inset = 14 * ratio;
    context.fillStyle = "#e8eef3";
    context.fillText(letters.left, left + inset, canvas.height / 2);
    context.fillText(letters.right, left + canvas.width - inset, canvas.height / 2);
    context.fillText(letters.top, left + canvas.width / 2, inset);
    context.fillText(letters.bottom, left + canvas.width / 2, canvas.height - inset);
    left += canvas.width + gap;
  }
  return joined;
}
