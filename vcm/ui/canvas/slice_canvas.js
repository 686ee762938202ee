// The component: what is shown, what the user does to it, and its conversation with Python and with linked canvases.

const DEFAULT_EXTENT = [160, 224, 160]; // mm; the room that an empty stage keeps
const BLINK_MS = 700;
const BRUSH_MM = 12;
const LAYERED_BRUSH_MM = 40; // a model follows a lesion that has room for all its parts

class SliceCanvas {
  constructor({ element, trigger, props, upload, watch }) {
    Object.assign(this, { element, trigger, props });
    this.root = element.querySelector("[data-part=root]");
    this.editable = Boolean(props.editable);
    this.grid = null;
    this.layers = [];
    this.labels = [];
    this.overlay = null; // {key, voxels}: the drawing, or the mask of a viewer
    this.drawing = null;
    this.revision = null; // of the drawing, as Python named it
    this.sentMask = null; // the last upload of this drawing
    this.accepted = null; // the last value that was shown
    this.offered = null; // the last value that came: its volumes may still be on their way
    this.retired = new Map(); // revision of a drawing that another has taken the place of -> the layers that it had
    this.isMissing = false; // whether the last value that came could not be shown
    this.layerIndex = 0;
    this.crosshair = [0, 0, 0];
    this.center = [0, 0, 0];
    this.zoom = 1;
    this.tool = this.editable ? "paint" : "move";
    this.layered = this.editable ? props.layered_brush : null; // {name, parts}: a brush of several labels
    this.label = 0; // what is drawn; 0 is the layered brush
    this.brushMm = this.layered ? LAYERED_BRUSH_MM : BRUSH_MM;
    this.isBall = true;
    this.opacity = this.editable ? 0.5 : 0.15; // a viewer outlines: what was generated has to show
    this.showOverlay = true;
    this.preset = "full";
    this.customWindows = {};
    this.convention = props.convention || "radiological";
    this.largePlane = "axial";
    this.hover = null; // {view, point} under the mouse
    this.lastVoxel = null; // of the stroke that is being drawn
    this.lastPlane = "axial"; // that was drawn on
    this.seam = null; // where a swipe comparison changes from the first volume to the second, 0 to 1
    this.blinking = null; // the timer that changes between the two
    this.colorTables = new Map();
    this.expected = null; // the grid that is being loaded, for its room on the page
    this.isRestored = false; // the drawing is what the browser had kept, and nobody has changed it since
    this.isPlaced = false; // the crosshair has found its first place
    this.loads = 0; // of two loads that overlap only the later one may show
    this.frame = 0; // the animation frame that will draw what has changed
    this.sender = new DrawingSender({
      read: () => this.drawing.voxels,
      upload,
      onSent: (file) => this.tellPython(file),
      onState: (state) => this.showSending(state),
    });
    const read = () => ({ grid: this.grid, voxels: this.drawing.voxels });
    this.keeper = this.editable && props.kept_as ? new DrawingKeeper(props.kept_as, read) : null;
    this.root.classList.toggle("sc-editor", this.editable);
    this.root.dataset.tool = this.tool;
    if (props.label) this.root.setAttribute("aria-label", props.label);
    this.views = [...this.root.querySelectorAll("[data-plane]")].map(
      (cell) => new PlaneView(cell.dataset.plane, cell, this),
    );
    this.controls = new Controls(this.root, this);
    for (const view of this.views) this.wire(view);
    this.joinLink(props.link_group);
    new ResizeObserver(() => this.layout()).observe(this.root);
    window.addEventListener("resize", () => this.layout()); // of the height alone, too
    document.addEventListener("pointerdown", (event) => this.hurry(event), true);
    watch("value", () => this.sync());
    this.sync();
  }

  wire(view) {
    attachGestures(view, this);
    view.slider.addEventListener("input", () => this.setSlice(view, Number(view.slider.value)));
    view.canvas.setAttribute("aria-label", `${PLANES[view.name].title} plane; press question mark for the keys`);
  }

  // ---- What is shown ----------------------------------------------------------------------------------------------

  // Bring the stage in line with the value from Python; what is on screen stays until all of the new is there.
  async sync() {
    const value = this.keepOwn(this.props.value);
    const load = ++this.loads;
    if (!value) return this.showNothing();
    this.offer(value);
    this.isMissing = false;
    const grid = new Grid(value.shape, value.affine);
    const isNew = value.mask_revision !== this.revision || !grid.equals(this.grid);
    const isNewDrawing = this.editable && isNew;
    const wantsMask = value.mask && (isNewDrawing || !this.editable);
    if (!this.grid) {
      this.expected = grid;
      this.layout();
    }
    this.root.setAttribute("aria-busy", "true");
    try {
      const files = [...value.layers.map(({ file }) => file), ...(wantsMask ? [value.mask] : [])];
      const volumes = await Promise.all(files.map(({ url }) => loadVolume(url, grid.length)));
      if (load !== this.loads) return undefined;
      const mask = wantsMask ? { key: value.mask.url, voxels: volumes.pop() } : null;
      const layers = value.layers.map((layer, i) => ({ ...layer, url: layer.file.url, voxels: volumes[i] }));
      const isOfOneRun = this.layers.length === 1 || layers.length === 1; // a volume in the making stands alone
      this.show(grid, layers, value.labels, isNewDrawing);
      this.accepted = value;
      if (isNewDrawing) this.startDrawing(mask, value.mask_revision);
      if (!this.editable) this.showOther(mask, isNew, value.mask_revision, isOfOneRun);
      this.controls.showMessage("");
      this.controls.showEmpty("");
      this.controls.showChoices();
      if (!this.isPlaced) this.placeCrosshair();
      this.compareLinked();
    } catch (error) {
      if (load !== this.loads) return undefined;
      if (!(error instanceof VolumeError)) console.error(error);
      this.takeBackOffer();
      this.controls.showMessage(error instanceof VolumeError ? error.message : "The volume could not be shown.", true);
    }
    this.root.setAttribute("aria-busy", "false");
    return this.requestRender();
  }

  showNothing() {
    Object.assign(this, { grid: null, layers: [], labels: [], overlay: null, drawing: null, revision: null });
    Object.assign(this, { accepted: null, offered: null });
    this.isPlaced = false;
    this.sender.forget();
    this.controls.showMessage("");
    this.controls.showEmpty(this.props.empty_text);
    this.controls.showChoices();
    this.layout();
  }

  show(grid, layers, labels, isNewDrawing) {
    if (!grid.equals(this.grid)) {
      this.grid = grid;
      this.zoom = 1;
      this.center = grid.extent.map((mm) => mm / 2);
      this.isPlaced = this.isPlaced && grid.contains(grid.toVoxel(this.crosshair));
      this.layout();
    }
    const chosen = this.layer?.name;
    // A scan that has just been dropped is looked at, and drawn on.
    const known = namesOf(this.layers);
    const isKept = this.editable && known.size > 0 && !isNewDrawing;
    const dropped = isKept ? layers.slice(1).find(({ name }) => !known.has(name)) : null;
    this.layers = layers;
    this.layerIndex = Math.max(0, layers.findIndex(({ name }) => name === (dropped?.name || chosen)));
    this.labels = labels;
    const isKnown = labels.some(({ id }) => id === this.label) || (this.layered && this.label === 0);
    if (!isKnown) this.label = labels[0]?.id || 0;
  }

  // Another volume begins at its first layer: whoever opens it has not asked for its difference map.
  showOther(mask, isNew, revision, isOfOneRun) {
    const before = this.overlay?.key;
    this.overlay = mask && { ...mask, counts: countLabels(mask.voxels) };
    this.revision = revision;
    if (!isNew) return;
    this.layerIndex = 0;
    // Every preview of a run is a new volume of the same drawing: whoever looks elsewhere, or draws there, stays there.
    if ((isOfOneRun && mask?.key === before) || this.linked.some((member) => member.isStroking)) return;
    // What was drawn for it may lie elsewhere: then the planes go there, or it would look like a healthy brain.
    const isElsewhere = mask && this.isPlaced && !meetsSlices(mask.voxels, this.grid, this.crosshairVoxel);
    const middle = isElsewhere && middleOf(mask.voxels, this.grid);
    if (middle) this.setCrosshair(this.grid.toMm(this.grid.nearest(middle)));
  }

  startDrawing(mask, revision) {
    const isOpening = this.revision === null;
    const voxels = mask ? mask.voxels : new Uint8Array(this.grid.length);
    this.sender.forget();
    this.sentMask = null;
    this.controls.showSaved("");
    this.revision = revision;
    // An example, a recipe or a lesion takes the place of what was drawn as one step that Undo takes back.
    if (this.isStroking) this.drawing.endStroke();
    if (!isOpening && this.drawing?.grid.equals(this.grid)) this.drawing.replace(voxels);
    else this.drawing = new Drawing(this.grid, voxels);
    this.mark();
    this.isPlaced = this.isPlaced && this.drawing.isEmpty;
    this.controls.showRestored(false);
    this.isRestored = false;
    if (isOpening) this.restoreKept();
    else this.keeper?.schedule();
  }

  // Bring back what this browser has kept, as one step that Undo takes back.
  async restoreKept() {
    const { drawing } = this;
    const kept = await this.keeper?.load(this.grid);
    const known = new Set([0, ...this.labels.map(({ id }) => id)]);
    if (!kept || drawing !== this.drawing || drawing.done.length || !kept.every((label) => known.has(label))) return;
    if (!drawing.replace(kept)) return; // the page opened on the very same
    this.afterEdit(true);
    this.isRestored = true;
    this.placeCrosshair();
    this.controls.showRestored(true);
  }

  discardRestored() {
    this.undo();
    this.keeper.forget();
  }

  // Start where there is something to see: where a linked canvas looks, or inside the lesion, or in the middle.
  placeCrosshair() {
    this.isPlaced = true;
    const voxels = this.drawing ? this.drawing.voxels : this.overlay?.voxels;
    const middle = (voxels && middleOf(voxels, this.grid)) || this.grid.shape.map((n) => (n - 1) / 2);
    const shared = !this.editable && this.link?.crosshair;
    this.setCrosshair(shared || this.grid.toMm(this.grid.nearest(middle)));
  }

  get layer() {
    return this.layers[this.layerIndex];
  }

  // What lies under the labels, left to right in shares of the plane's width; a swipe comparison gives two.
  baseShares() {
    if (!this.layer) return [];
    if (this.seam === null || !this.canCompare) return [{ layer: this.layer, from: 0, to: 1 }];
    const [first, second] = this.layers;
    return [{ layer: first, from: 0, to: this.seam }, { layer: second, from: this.seam, to: 1 }];
  }

  // The first two volumes are a pair: one with control, one without.
  get canCompare() {
    return !this.editable && this.layers.length > 1 && this.layers.slice(0, 2).every(({ kind }) => kind === "image");
  }

  swipe(seam = this.seam === null ? 0.5 : null) {
    this.stopBlinking();
    this.set({ seam, layerIndex: seam === null ? this.layerIndex : 0 });
  }

  blink() {
    if (this.blinking) return this.stopBlinking();
    this.seam = null;
    const change = () => this.canCompare && this.set({ layerIndex: this.layerIndex === 0 ? 1 : 0 });
    this.blinking = setInterval(change, BLINK_MS);
    return change();
  }

  stopBlinking() {
    clearInterval(this.blinking);
    this.blinking = null;
    this.requestRender();
  }

  chooseLayer(layerIndex) {
    this.stopBlinking();
    this.set({ layerIndex, seam: null });
  }

  // The three planes as they stand, as one PNG.
  takePicture() {
    const link = document.createElement("a");
    link.download = `${(this.props.label || "slices").toLowerCase().replaceAll(" ", "-")}.png`;
    link.href = joinPlanes(this.views).toDataURL("image/png");
    link.click();
  }

  overlayOnShow() {
    if (!this.showOverlay || this.opacity === 0) return null;
    if (this.drawing) return { key: this.drawing.version, voxels: this.drawing.voxels };
    return this.overlay;
  }

  windowOf(layer) {
    const custom = this.customWindows[layer.colormap];
    if (custom) return custom;
    layer.windows = layer.windows || {};
    layer.windows[this.preset] = layer.windows[this.preset] || presetWindow(layer.voxels, layer.colormap, this.preset);
    return layer.windows[this.preset];
  }

  colorsOf(layer) {
    const [low, high] = this.windowOf(layer);
    const key = `${layer.colormap} ${low} ${high}`;
    if (!this.colorTables.has(key)) {
      if (this.colorTables.size > 8) this.colorTables.clear();
      this.colorTables.set(key, colorTable(layer.colormap, low, high));
    }
    return this.colorTables.get(key);
  }

  labelMl(label) {
    if (this.drawing) return label ? this.drawing.volumeMl(label) : this.drawing.totalMl;
    return this.overlay ? this.overlay.counts[label] * this.grid.voxelMl : 0;
  }

  requestRender() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      for (const view of this.views) view.render();
      this.controls.refresh();
    });
  }

  // ---- Layout ------------------------------------------------------------------------------------------------------

  layout() {
    const width = this.controls.parts.stage.clientWidth;
    if (!width) return; // in a hidden tab; the observer calls again
    const extent = (this.grid || this.expected)?.extent || DEFAULT_EXTENT;
    const room = parseFloat(getComputedStyle(this.controls.parts.stage).maxHeight) || Infinity; // "none" is no number
    this.root.dataset.planes = chooseArrangement(width, this.props.planes);
    const plan = planLayout(this.root.dataset.planes, width, room, extent, this.largePlane);
    for (const view of this.views) view.place(plan[view.name]);
    this.requestRender();
  }

  enlargePlane(view) {
    this.largePlane = view.name;
    this.hover = null;
    this.layout();
    view.canvas.focus({ preventScroll: true });
  }

  // ---- Looking -----------------------------------------------------------------------------------------------------

  set(changes) {
    if ("tool" in changes) this.root.dataset.tool = changes.tool;
    Object.assign(this, changes);
    this.requestRender();
  }

  setCrosshair(mm, { isShared = true } = {}) {
    this.crosshair = mm;
    if (isShared) this.shareWithLink({ crosshair: mm });
    this.requestRender();
  }

  setConvention(convention, { isShared = true } = {}) {
    this.convention = convention;
    if (isShared) this.shareWithLink({ convention });
    this.requestRender();
  }

  switchConvention() {
    this.setConvention(this.convention === "radiological" ? "neurological" : "radiological");
  }

  get crosshairVoxel() {
    return this.grid.nearest(this.grid.toVoxel(this.crosshair));
  }

  pointCrosshair(view, point) {
    this.setCrosshair(this.grid.toMm(this.grid.nearest(view.voxelAt(point))));
  }

  // Move the crosshair by whole voxels along a body axis.
  stepAlong(axis, steps) {
    const { voxel: v, sign } = this.grid.axes[axis];
    const voxel = this.crosshairVoxel;
    voxel[v] += steps * sign;
    this.setCrosshair(this.grid.toMm(this.grid.nearest(voxel)));
  }

  stepSlice(view, steps) {
    this.stepAlong(PLANES[view.name].through, steps);
  }

  setSlice(view, position) {
    const { voxel, sign } = this.grid.axes[PLANES[view.name].through];
    const now = this.crosshairVoxel[voxel];
    this.stepSlice(view, position - (sign > 0 ? now : this.grid.shape[voxel] - 1 - now));
  }

  nudgeCrosshair(view, right, up) {
    if (right) this.stepAlong(PLANES[view.name].across, right * view.rightward);
    if (up) this.stepAlong(PLANES[view.name].up, up);
  }

  zoomAt(view, point, factor) {
    const before = view.bodyAt(point);
    this.zoom = clamp(this.zoom * factor, 1, 12);
    const after = view.bodyAt(point);
    this.moveCenter(before.map((mm, axis) => mm - after[axis]));
  }

  panBy(view, dx, dy) {
    const { across, up } = PLANES[view.name];
    const shift = [0, 0, 0];
    shift[across] = (-view.rightward * dx) / view.scale;
    shift[up] = dy / view.scale;
    this.moveCenter(shift);
  }

  moveCenter(shift) {
    const { extent } = this.grid;
    // At zoom 1 all is in view and centered; beyond it the center stays within the volume.
    const room = 1 - 1 / this.zoom;
    this.center = extent.map((mm, axis) => {
      const half = mm / 2;
      return clamp(this.center[axis] + shift[axis], half - half * room, half + half * room);
    });
    this.requestRender();
  }

  dragWindow(dx, dy) {
    const { layer } = this;
    if (layer?.kind !== "image") return;
    const [low, high] = this.windowOf(layer);
    const width = clamp((high - low) * Math.exp(dx * 0.006), 4, 510);
    const level = layer.colormap === "diverging" ? 127.5 : clamp((low + high) / 2 + dy * 0.5, 0, 255);
    this.customWindows[layer.colormap] = [level - width / 2, level + width / 2];
    this.requestRender();
  }

  choosePreset(preset) {
    if (preset === "custom") return;
    this.customWindows = {};
    this.set({ preset });
  }

  resetView() {
    this.zoom = 1;
    this.customWindows = {};
    this.preset = "full";
    this.moveCenter([0, 0, 0]);
  }

  // ---- Drawing -----------------------------------------------------------------------------------------------------

  get isDrawingTool() {
    return this.editable && this.tool !== "move" && Boolean(this.drawing);
  }

  get isStroking() {
    return Boolean(this.drawing?.stroke);
  }

  colorOf(label) {
    return this.labels.find(({ id }) => id === label)?.color || "#ffffff";
  }

  // Label 0 is the layered brush, which needs another size than the brushes of one label do.
  chooseLabel(label) {
    if (Boolean(label) !== Boolean(this.label)) {
      [this.brushMm, this.otherBrushMm] = [this.otherBrushMm || BRUSH_MM, this.brushMm];
    }
    this.set({ label, tool: this.tool === "move" || this.tool === "erase" ? "paint" : this.tool });
  }

  // The parts of the brush that is in hand, [label, share of the radius] from the outside in.
  get brushParts() {
    if (this.tool === "erase") return [[0, 1]];
    return this.label || !this.layered ? [[this.label, 1]] : this.layered.parts;
  }

  hoverAt(view, point) {
    if (!point && !this.hover) return;
    this.hover = point && { view, point };
    if (this.isDrawingTool) this.requestRender();
  }

  beginStroke(view, point) {
    this.lastPlane = view.name;
    if (this.tool === "fill") return this.fillAt(view, point);
    this.drawing.beginStroke();
    this.lastVoxel = null;
    this.showOverlay = true;
    return this.continueStroke(view, [point]);
  }

  fillAt(view, point) {
    const voxel = this.grid.nearest(view.voxelAt(point));
    const [label] = this.brushParts.at(-1); // what lies inside of everything
    const isChanged = this.drawing.fillRegion(voxel, this.grid.axes[PLANES[view.name].through].voxel, label);
    this.setCrosshair(this.grid.toMm(voxel));
    this.showOverlay = true;
    this.controls.showMessage(isChanged !== null ? "" : "There is no closed outline around this point: close it, then fill.");
    this.afterEdit(isChanged);
  }

  fillBetween() {
    if (!this.drawing) return;
    const axis = this.grid.axes[PLANES[this.lastPlane].through].voxel;
    const isChanged = this.drawing.fillBetween(axis, this.labels.map(({ id }) => id));
    const plane = PLANES[this.lastPlane].title.toLowerCase();
    this.controls.showMessage(isChanged ? "" : `There is no empty slice between drawn ones in the ${plane} plane.`);
    this.afterEdit(isChanged);
  }

  continueStroke(view, points) {
    if (!this.isStroking) return;
    for (const point of points) {
      const voxel = view.voxelAt(point);
      this.drawing.paint(this.lastVoxel || voxel, voxel, this.brush(view));
      this.lastVoxel = voxel;
    }
    // The other two planes follow the brush.
    this.setCrosshair(this.grid.toMm(this.grid.nearest(this.lastVoxel)));
  }

  brush(view) {
    return {
      radiusMm: this.brushMm / 2,
      parts: this.brushParts,
      flatAxis: this.isBall ? null : this.grid.axes[PLANES[view.name].through].voxel,
    };
  }

  endStroke() {
    this.afterEdit(this.drawing.endStroke());
  }

  cancelStroke() {
    this.drawing.cancelStroke();
    this.requestRender();
  }

  dab(view) {
    if (this.tool === "fill") return this.fillAt(view, view.toScreen(this.grid.toBody(this.crosshairVoxel)));
    const voxel = this.crosshairVoxel;
    this.drawing.beginStroke();
    this.drawing.paint(voxel, voxel, this.brush(view));
    return this.endStroke();
  }

  undo() {
    if (this.drawing) this.afterEdit(this.drawing.undo());
  }

  redo() {
    if (this.drawing) this.afterEdit(this.drawing.redo());
  }

  clear() {
    if (this.drawing) this.afterEdit(this.drawing.clear());
  }

  // Remember the drawing as it stands; `isAsMarked` tells whether undo and redo have led back to it.
  mark() {
    this.marked = { edit: this.drawing?.done.at(-1), drawing: this.drawing };
  }

  get isAsMarked() {
    return this.marked?.drawing === this.drawing && this.marked.edit === this.drawing?.done.at(-1);
  }

  afterEdit(isChanged) {
    if (isChanged) {
      this.isRestored = false;
      this.compareLinked();
      this.sender.schedule();
      this.keeper?.schedule();
      this.controls.showRestored(false);
    }
    this.requestRender();
  }

  // ---- Python ------------------------------------------------------------------------------------------------------

  // A handler that began before the last stroke, before a scan was dropped or before an example was chosen returns a
  // value that has become old meanwhile: the newer strokes, layers and drawings stay. Returns the value that holds.
  keepOwn(value) {
    const own = this.offered;
    if (!value || !own || !this.editable) return value;
    const sent = own.mask_revision === this.revision ? this.sentMask : null; // of the drawing that holds, not before it
    let held = value;
    const known = this.retired.get(value.mask_revision);
    if (known) {
      // What that drawing did not have yet when its place was taken is a scan that was being read.
      const names = namesOf(own.layers);
      const more = value.layers.slice(1).filter(({ name }) => !known.has(name) && !names.has(name));
      held = { ...own, mask: sent || own.mask, layers: [...own.layers, ...more] };
    } else if (value.mask_revision === own.mask_revision) {
      const names = namesOf(value.layers);
      const more = own.layers.slice(1).filter(({ name }) => !names.has(name));
      const mask = sent || value.mask;
      if (!more.length && mask?.path === value.mask?.path) return value;
      held = { ...value, mask, layers: [...value.layers, ...more] };
    }
    if (held !== value) this.props.value = held;
    return held;
  }

  // From now on this value holds, though it is shown only when all its volumes are there.
  offer(value) {
    if (this.offered && this.offered.mask_revision !== value.mask_revision) {
      this.retired.set(this.offered.mask_revision, namesOf(this.offered.layers));
    }
    this.offered = value;
  }

  // Its volumes cannot be had: what is on screen holds again.
  takeBackOffer() {
    this.offered = this.accepted;
    this.isMissing = this.accepted !== null;
    this.retired.delete(this.revision);
  }

  // What Python should know: what is on screen, though the value that came last, which can be tried again, is another.
  get heldValue() {
    if (!this.isMissing) return this.props.value;
    return { ...this.accepted, mask: this.sentMask || this.accepted.mask };
  }

  tellPython({ path, url }) {
    const mask = { path, url, orig_name: "drawing.u8.gz", meta: { _type: "gradio.FileData" } };
    this.sentMask = mask;
    this.props.value = { ...this.heldValue, mask, mask_revision: this.revision };
    this.trigger("input");
  }

  showSending(state) {
    const words = { waiting: "Saving\u2026", sending: "Saving\u2026", sent: "Drawing saved", failed: "Not saved yet" };
    this.controls.showSaved(words[state]);
    if (state === "failed") {
      this.controls.showMessage("The drawing could not be sent; it is kept here and goes with the next stroke.", false);
    } else if (state === "sent") {
      this.controls.showMessage("");
    }
  }

  // A press anywhere else may be a button that uses the drawing: do not wait out the delay.
  hurry(event) {
    if (this.sender.changed && !this.root.contains(event.target)) this.sender.flush();
  }

  async flush(fallback) {
    if (!this.editable) return fallback;
    await this.sender.flush();
    return this.props.value ? JSON.parse(JSON.stringify(this.heldValue)) : fallback;
  }

  // ---- Linked canvases ---------------------------------------------------------------------------------------------

  joinLink(group) {
    if (!group) return;
    if (!links.has(group)) links.set(group, { members: new Set() });
    this.link = links.get(group);
    this.link.members.add(this);
    if (this.link.convention) this.convention = this.link.convention;
  }

  get linked() {
    return [...(this.link?.members || [])].filter((member) => member.element.isConnected);
  }

  // An editor is marked while a volume linked to it was made from another drawing than the one that it holds.
  compareLinked() {
    const editor = this.linked.find((member) => member.editable && member.drawing);
    const made = this.linked.find((member) => !member.editable && member.overlay);
    if (!editor) return;
    const isOther = made && made.grid.equals(editor.grid) && !areEqual(made.overlay.voxels, editor.drawing.voxels);
    editor.root.toggleAttribute("data-edited", Boolean(isOther));
  }

  shareWithLink(change) {
    if (!this.link) return;
    Object.assign(this.link, change);
    for (const member of this.link.members) {
      if (!member.element.isConnected) this.link.members.delete(member);
      else if (member !== this) member.follow(change);
    }
  }

  follow({ crosshair, convention }) {
    if (convention) this.setConvention(convention, { isShared: false });
    if (crosshair && this.grid && !this.isStroking) {
      this.isPlaced = true;
      this.setCrosshair(crosshair, { isShared: false });
    }
  }
}

function namesOf(layers) {
  return new Set(layers.map(({ name }) => name));
}

function areEqual(some, others) {
  return some.length === others.length && some.every((value, i) => value === others[i]);
}

function countLabels(voxels) {
  const counts = new Float64Array(256);
  for (let i = 0; i < voxels.length; i++) counts[voxels[i]]++;
  return counts;
}

// The labelled voxel nearest to the centre of all labelled voxels, or null when there is none.
function middleOf(voxels, grid) {
  const [nx, ny] = grid.shape;
  const place = (i) => [i % nx, Math.floor(i / nx) % ny, Math.floor(i / (nx * ny))];
  const sum = [0, 0, 0];
  let count = 0;
  for (let i = 0; i < voxels.length; i++) {
    if (!voxels[i]) continue;
    place(i).forEach((index, v) => (sum[v] += index));
    count++;
  }
  let best = null;
  let least = Infinity;
  for (let i = 0; i < voxels.length; i++) {
    if (!voxels[i]) continue;
    const voxel = place(i);
    const distance = voxel.reduce((d, index, v) => d + (index - sum[v] / count) ** 2, 0);
    if (distance < least) [best, least] = [voxel, distance];
  }
  return best;
}

// Whether one of the three slices through a voxel holds a label.
function meetsSlices(voxels, grid, voxel) {
  const { shape, strides } = grid;
  return [0, 1, 2].some((axis) => {
    const [a, b] = [0, 1, 2].filter((v) => v !== axis);
    const origin = voxel[axis] * strides[axis];
    for (let j = 0; j < shape[b]; j++) {
      for (let i = 0; i < shape[a]; i++) if (voxels[origin + i * strides[a] + j * strides[b]]) return true;
    }
    return false;
  });
}

const links = new Map(); // link group -> {members, crosshair, convention}
const canvases = new Set();

window.vcmSliceCanvas = {
  mount(context) {
    const canvas = new SliceCanvas(context);
    canvases.add(canvas);
    return canvas;
  },

  // The canvas inside the element with this id.
  find(elementId) {
    const holder = document.getElementById(elementId);
    for (const canvas of canvases) {
      if (!canvas.element.isConnected) canvases.delete(canvas);
      else if (holder?.contains(canvas.element)) return canvas;
    }
    return null;
  },

  // Send what is still pending and give the newest value of that canvas (see SliceCanvas.flush_js in Python).
  async flush(elementId, fallback) {
    const canvas = this.find(elementId);
    return canvas ? canvas.flush(fallback) : fallback;
  },
};
