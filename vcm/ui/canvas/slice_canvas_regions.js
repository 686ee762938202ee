// Regions of the label map: what a closed outline holds, and what lies between two drawn slices.

// The offsets of all voxels of one slice that hang together with `voxel` and hold the same value, or null when they
// reach the edge of the slice: an outline that is not closed holds nothing. `flatAxis` is the voxel axis of the slice.
function findRegion(voxels, grid, voxel, flatAxis) {
  const [a, b] = [0, 1, 2].filter((v) => v !== flatAxis);
  const origin = voxel[flatAxis] * grid.strides[flatAxis];
  const at = (i, j) => origin + i * grid.strides[a] + j * grid.strides[b];
  const value = voxels[at(voxel[a], voxel[b])];
  const seen = new Set([at(voxel[a], voxel[b])]);
  const open = [[voxel[a], voxel[b]]];
  let isClosed = true;
  while (open.length) {
    const [i, j] = open.pop();
    for (const [p, q] of [[i - 1, j], [i + 1, j], [i, j - 1], [i, j + 1]]) {
      if (p < 0 || q < 0 || p >= grid.shape[a] || q >= grid.shape[b]) {
        isClosed = false;
        continue;
      }
      const offset = at(p, q);
      if (voxels[offset] !== value || seen.has(offset)) continue;
      seen.add(offset);
      open.push([p, q]);
    }
  }
  return isClosed ? seen : null;
}

// The offsets, by label, of what lies between slices that are drawn on, along one voxel axis: the shape of each label
// goes over from slice to slice, and so does its place. Only empty voxels are filled.
function interpolateSlices(voxels, grid, axis, labels) {
  const found = new Map();
  const taken = new Set();
  for (const label of labels) {
    const shapes = drawnShapes(voxels, grid, axis, label);
    const offsets = [];
    for (let k = 1; k < shapes.length; k++) {
      const [from, to] = [shapes[k - 1], shapes[k]];
      for (let index = from.index + 1; index < to.index; index++) {
        for (const offset of between(from, to, index, grid, axis)) {
          if (voxels[offset] || taken.has(offset)) continue;
          taken.add(offset);
          offsets.push(offset);
        }
      }
    }
    if (offsets.length) found.set(label, offsets);
  }
  return found;
}

// Every slice across `axis` that holds the label: its distances to the outline, negative inside, and its middle.
function drawnShapes(voxels, grid, axis, label) {
  const [a, b] = [0, 1, 2].filter((v) => v !== axis);
  const [width, height] = [grid.shape[a], grid.shape[b]];
  const shapes = [];
  for (let index = 0; index < grid.shape[axis]; index++) {
    const inside = new Uint8Array(width * height);
    const sum = [0, 0];
    let count = 0;
    for (let j = 0; j < height; j++) {
      for (let i = 0; i < width; i++) {
        if (voxels[index * grid.strides[axis] + i * grid.strides[a] + j * grid.strides[b]] !== label) continue;
        inside[i + j * width] = 1;
        sum[0] += i;
        sum[1] += j;
        count++;
      }
    }
    if (!count) continue;
    const middle = [sum[0] / count, sum[1] / count];
    shapes.push({ index, middle, width, height, distance: signedDistance(inside, width, height) });
  }
  return shapes;
}

function between(from, to, index, grid, axis) {
  const [a, b] = [0, 1, 2].filter((v) => v !== axis);
  const share = (index - from.index) / (to.index - from.index);
  const middle = [0, 1].map((v) => (1 - share) * from.middle[v] + share * to.middle[v]);
  const read = (shape, i, j) => {
    const x = clamp(Math.round(i - middle[0] + shape.middle[0]), 0, shape.width - 1);
    const y = clamp(Math.round(j - middle[1] + shape.middle[1]), 0, shape.height - 1);
    return shape.distance[x + y * shape.width];
  };
  const offsets = [];
  for (let j = 0; j < from.height; j++) {
    for (let i = 0; i < from.width; i++) {
      if ((1 - share) * read(from, i, j) + share * read(to, i, j) >= 0) continue;
      offsets.push(index * grid.strides[axis] + i * grid.strides[a] + j * grid.strides[b]);
    }
  }
  return offsets;
}

// Chamfer distance of every pixel to the nearest one on the other side, negative inside, in thirds of a pixel.
function signedDistance(inside, width, height) {
  const distance = new Float32Array(width * height);
  for (const side of [1, 0]) {
    const away = Float32Array.from(inside, (value) => (value === side ? 1e6 : 0));
    sweep(away, width, height, false);
    sweep(away, width, height, true);
    for (let k = 0; k < away.length; k++) if (inside[k] === side) distance[k] = side ? -away[k] : away[k];
  }
  return distance;
}

function sweep(away, width, height, isBackward) {
  const sign = isBackward ? 1 : -1;
  const neighbours = [[sign, 0, 3], [0, sign, 3], [sign, sign, 4], [-sign, sign, 4]];
  for (let row = 0; row < height; row++) {
    const j = isBackward ? height - 1 - row : row;
    for (let column = 0; column < width; column++) {
      const i = isBackward ? width - 1 - column : column;
      for (const [di, dj, cost] of neighbours) {
        const [p, q] = [i + di, j + dj];
        if (p < 0 || q < 0 || p >= width || q >= height) continue;
        away[i + j * width] = Math.min(away[i + j * width], away[p + q * width] + cost);
      }
    }
  }
}
