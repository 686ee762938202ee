// One slice as pixels: smooth interpolation, color tables, and label outlines as paths.

// Catmull-Rom interpolation to `factor` times as many samples each way; bilinear alone shows the voxels as diamonds.
function enlarge(slice, width, height, factor) {
  if (factor === 1) return slice;
  const wide = enlargeRows(slice, width, height, factor);
  return transpose(enlargeRows(transpose(wide, width * factor, height), height, width * factor, factor),
    height * factor, width * factor);
}

function enlargeRows(source, width, height, factor) {
  const out = new Uint8ClampedArray(width * factor * height);
  const taps = catmullRomTaps(factor);
  for (let y = 0; y < height; y++) {
    const row = y * width;
    const outRow = row * factor;
    for (let x = 0; x < width; x++) {
      const inner = x >= 2 && x < width - 2;
      for (let phase = 0; phase < factor; phase++) {
        const { first, weights } = taps[phase];
        let sum = 0;
        for (let k = 0; k < 4; k++) {
          const at = inner ? x + first + k : clamp(x + first + k, 0, width - 1);
          sum += weights[k] * source[row + at];
        }
        out[outRow + x * factor + phase] = sum;
      }
    }
  }
  return out;
}

function catmullRomTaps(factor) {
  return Array.from({ length: factor }, (_, phase) => {
    const offset = (phase + 0.5) / factor - 0.5;
    const base = Math.floor(offset);
    const t = offset - base;
    const weights = [
      ((-t + 2) * t - 1) * t / 2,
      ((3 * t - 5) * t * t + 2) / 2,
      ((-3 * t + 4) * t + 1) * t / 2,
      (t - 1) * t * t / 2,
    ];
    return { first: base - 1, weights };
  });
}

function transpose(source, width, height) {
  const out = new Uint8ClampedArray(source.length);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) out[x * height + y] = source[y * width + x];
  return out;
}

// Stops of the diverging map from -1 to 1: light on the outside, black where nothing changed.
const DIVERGING = [[-1, 190, 232, 255], [-0.45, 42, 122, 222], [0, 0, 0, 0], [0.45, 224, 92, 22], [1, 255, 226, 170]];

// 256 packed RGBA pixels for the byte values of a volume, with `low` and `high` (bytes) as the ends of the window.
function colorTable(colormap, low, high) {
  const table = new Uint32Array(256);
  const bytes = new Uint8ClampedArray(table.buffer);
  const width = Math.max(high - low, 1);
  for (let value = 0; value < 256; value++) {
    const level = clamp((value - low) / width, 0, 1);
    const rgb = colormap === "diverging" ? divergingColor(level * 2 - 1) : [level * 255, level * 255, level * 255];
    bytes.set([...rgb, 255], value * 4);
  }
  return table;
}

function divergingColor(level) {
  const next = Math.max(1, DIVERGING.findIndex(([at]) => level <= at));
  const [from, ...a] = DIVERGING[next - 1];
  const [to, ...b] = DIVERGING[next];
  const t = (level - from) / (to - from);
  return a.map((channel, k) => channel + (b[k] - channel) * t);
}

// The outline of one label in a slice, as a smooth path in millimetres from the slice's top left corner.
// Marching squares on voxel centres, then a quadratic B-spline through the corners: never blocky, never off by more
// than half a voxel, and a single voxel stays visible.
function outlineLabel(slice, frame, label) {
  const { width, height, mmRight, mmDown } = frame;
  const columns = width + 2;
  const next = new Int32Array(2 * columns * (height + 2)).fill(-1);
  // Crossings are numbered by the voxel they follow, in a grid padded by one: to its right (even) or below it (odd).
  const rightOf = (x, y) => 2 * ((y + 1) * columns + x + 1);
  const below = (x, y) => rightOf(x, y) + 1;
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && slice[y * width + x] === label;
  const starts = [];
  for (let y = -1; y < height; y++) {
    let corners = (inside(-1, y) ? 8 : 0) | (inside(-1, y + 1) ? 1 : 0);
    for (let x = -1; x < width; x++) {
      corners |= (inside(x + 1, y) ? 4 : 0) | (inside(x + 1, y + 1) ? 2 : 0);
      if (corners !== 0 && corners !== 15) {
        const edges = [rightOf(x, y), below(x + 1, y), rightOf(x, y + 1), below(x, y)];
        for (const [from, to] of OUTLINE_STEPS[corners]) {
          next[edges[from]] = edges[to];
          starts.push(edges[from]);
        }
      }
      corners = (corners & 4 ? 8 : 0) | (corners & 2 ? 1 : 0);
    }
  }
  const point = (edge) => {
    const cell = edge >> 1;
    const x = (cell % columns) - 1;
    const y = Math.floor(cell / columns) - 1;
    return edge & 1 ? [(x + 0.5) * mmRight, (y + 1) * mmDown] : [(x + 1) * mmRight, (y + 0.5) * mmDown];
  };
  const path = new Path2D();
  for (const start of starts) {
    if (next[start] < 0) continue;
    const loop = [];
    for (let edge = start; next[edge] >= 0; ) {
      loop.push(point(edge));
      const following = next[edge];
      next[edge] = -1;
      edge = following;
    }
    addSmoothLoop(path, loop);
  }
  return path;
}

// For each of the 16 ways to fill a cell's corners (8 top left, 4 top right, 2 bottom right, 1 bottom left): the
// steps from edge to edge (0 top, 1 right, 2 bottom, 3 left) that keep the label on the right hand.
const OUTLINE_STEPS = [
  [], [[3, 2]], [[2, 1]], [[3, 1]], [[1, 0]], [[1, 0], [3, 2]], [[2, 0]], [[3, 0]],
  [[0, 3]], [[0, 2]], [[0, 3], [2, 1]], [[0, 1]], [[1, 3]], [[1, 2]], [[2, 3]], [],
];

function addSmoothLoop(path, loop) {
  const count = loop.length;
  const middle = (i) => {
    const [a, b] = [loop[i % count], loop[(i + 1) % count]];
    return [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  };
  path.moveTo(...middle(count - 1));
  for (let i = 0; i < count; i++) path.quadraticCurveTo(...loop[i], ...middle(i));
  path.closePath();
}

// The byte value below which a share of the counted voxels lies.
function quantile(counts, share) {
  let left = share * counts.reduce((sum, n) => sum + n, 0);
  for (let value = 0; value < counts.length; value++) {
    left -= counts[value];
    if (left <= 0 && counts[value]) return value;
  }
  return counts.length - 1;
}

// The window (in bytes) of a preset: "full", "auto" or "tissue"; background 0 of an image is not counted.
function presetWindow(voxels, colormap, preset) {
  if (preset === "full") return [0, 255];
  const counts = new Float64Array(256);
  for (let i = 0; i < voxels.length; i++) counts[voxels[i]]++;
  if (colormap === "diverging") {
    const distances = new Float64Array(129);
    counts.forEach((n, value) => (distances[Math.round(Math.abs(value - 127.5))] += n));
    const half = Math.max(4, quantile(distances, preset === "auto" ? 0.995 : 0.95));
    return [127.5 - half, 127.5 + half];
  }
  counts[0] = 0;
  const [low, high] = preset === "auto" ? [0.01, 0.995] : [0.15, 0.97];
  const from = quantile(counts, low);
  return [from, Math.max(from + 8, quantile(counts, high))];
}
