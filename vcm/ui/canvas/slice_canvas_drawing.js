// The label map under the user's hand: strokes in millimetres, undo, redo, and volumes.

const UNDO_STEPS = 100;

class Drawing {
  constructor(grid, voxels) {
    this.grid = grid;
    this.voxels = voxels ? voxels.slice() : new Uint8Array(grid.length);
    this.counts = new Float64Array(256);
    for (let i = 0; i < this.voxels.length; i++) this.counts[this.voxels[i]]++;
    this.version = 0;
    this.done = [];
    this.undone = [];
    this.stroke = null; // Map of voxel offset -> label before the stroke
  }

  get isEmpty() {
    return this.counts[0] === this.voxels.length;
  }

  get totalMl() {
    return (this.voxels.length - this.counts[0]) * this.grid.voxelMl;
  }

  volumeMl(label) {
    return this.counts[label] * this.grid.voxelMl;
  }

  beginStroke() {
    this.stroke = new Map();
  }

  // Give every voxel within `radiusMm` of the way from one point to the next (voxel coordinates) its label.
  // `parts` are [label, share of the radius] from the outside in: one is a plain brush, several lie one inside the
  // other. `flatAxis` is the voxel axis that a 2D disc does not leave, or null for a 3D ball.
  paint(from, to, { radiusMm, parts, flatAxis }) {
    const { shape, spacing, strides } = this.grid;
    const low = [0, 0, 0];
    const high = [0, 0, 0];
    for (let v = 0; v < 3; v++) {
      const reach = v === flatAxis ? 0 : radiusMm / spacing[v];
      low[v] = clamp(Math.ceil(Math.min(from[v], to[v]) - reach), 0, shape[v] - 1);
      high[v] = clamp(Math.floor(Math.max(from[v], to[v]) + reach), 0, shape[v] - 1);
    }
    const way = [0, 1, 2].map((v) => (to[v] - from[v]) * spacing[v]);
    const length2 = way[0] ** 2 + way[1] ** 2 + way[2] ** 2;
    const limits = parts.map(([label, share]) => [label, (share * radiusMm) ** 2]);
    const set = parts.length === 1 ? (offset, label) => this.set(offset, label) : this.deepener(parts);
    for (let z = low[2]; z <= high[2]; z++) {
      const dz = (z - from[2]) * spacing[2];
      for (let y = low[1]; y <= high[1]; y++) {
        const dy = (y - from[1]) * spacing[1];
        for (let x = low[0]; x <= high[0]; x++) {
          const dx = (x - from[0]) * spacing[0];
          const t = length2 ? clamp((dx * way[0] + dy * way[1] + dz * way[2]) / length2, 0, 1) : 0;
          const distance2 = (dx - t * way[0]) ** 2 + (dy - t * way[1]) ** 2 + (dz - t * way[2]) ** 2;
          const part = limits.findLast(([, limit]) => distance2 <= limit);
          if (part) set(x + y * strides[1] + z * strides[2], part[0]);
        }
      }
    }
    // A brush finer than a voxel still marks the voxel that it points at.
    if (this.grid.contains(to)) set(this.grid.offset(this.grid.nearest(to)), parts.at(-1)[0]);
    this.version++;
  }

  // Sets a label only where it lies further inside than what is there, so that a stroke which crosses itself or an
  // older one makes one lesion of both: its edema goes around a solid part, never over it.
  deepener(parts) {
    const depth = new Map(parts.map(([label], k) => [label, k + 1]));
    return (offset, label) => {
      if ((depth.get(this.voxels[offset]) || 0) < depth.get(label)) this.set(offset, label);
    };
  }

  set(offset, label) {
    const before = this.voxels[offset];
    if (before === label) return;
    if (!this.stroke.has(offset)) this.stroke.set(offset, before);
    this.counts[before]--;
    this.counts[label]++;
    this.voxels[offset] = label;
  }

  // Returns whether anything changed.
  endStroke() {
    const stroke = this.stroke;
    this.stroke = null;
    if (!stroke || !stroke.size) return false;
    const offsets = Uint32Array.from(stroke.keys());
    const before = Uint8Array.from(stroke.values());
    const after = Uint8Array.from(offsets, (offset) => this.voxels[offset]);
    this.done.push({ offsets, before, after });
    if (this.done.length > UNDO_STEPS) this.done.shift();
    this.undone = [];
    return true;
  }

  // Take back a stroke that turned out to be the first finger of a pinch.
  cancelStroke() {
    if (!this.stroke) return;
    for (const [offset, before] of this.stroke) this.restore(offset, before);
    this.stroke = null;
    this.version++;
  }

  // Give the region of one slice that `voxel` lies in the label; returns whether anything changed, or null where the
  // region has no end.
  fillRegion(voxel, flatAxis, label) {
    const region = findRegion(this.voxels, this.grid, voxel, flatAxis);
    return region && this.setAll(new Map([[label, region]]));
  }

  // Fill the empty slices between those that are drawn on; returns whether anything changed.
  fillBetween(axis, labels) {
    return this.setAll(interpolateSlices(this.voxels, this.grid, axis, labels));
  }

  // One step of the history: offsets by label.
  setAll(offsets) {
    this.beginStroke();
    for (const [label, those] of offsets) for (const offset of those) this.set(offset, label);
    this.version++;
    return this.endStroke();
  }

  // Another label map of the same grid, as one step of the history; returns whether it differs.
  replace(voxels) {
    this.beginStroke();
    for (let i = 0; i < voxels.length; i++) this.set(i, voxels[i]);
    this.version++;
    return this.endStroke();
  }

  clear() {
    this.beginStroke();
    for (let i = 0; i < this.voxels.length; i++) if (this.voxels[i]) this.set(i, 0);
    this.version++;
    return this.endStroke();
  }

  undo() {
    return this.replay(this.done, this.undone, "before");
  }

  redo() {
    return this.replay(this.undone, this.done, "after");
  }

  replay(source, target, side) {
    const edit = this.stroke ? null : source.pop();
    if (!edit) return false;
    edit.offsets.forEach((offset, i) => this.restore(offset, edit[side][i]));
    target.push(edit);
    this.version++;
    return true;
  }

  restore(offset, label) {
    this.counts[this.voxels[offset]]--;
    this.counts[label]++;
    this.voxels[offset] = label;
  }
}
