// Where voxels lie in the body: anatomical axes, millimetres, and how the three planes show them.
//
// Three kinds of coordinates, each an array of three numbers:
//   voxel  index along the array's own axes; whole numbers are voxel centres
//   mm     RAS+ millimetres, by the affine
//   body   millimetres from the left, posterior and inferior edge of the volume, along its own axes; what is drawn

// `across`, `up` and `through` are body axes: 0 left to right, 1 posterior to anterior, 2 inferior to superior.
const PLANES = {
  axial: { title: "Axial", across: 0, up: 1, through: 2 },
  coronal: { title: "Coronal", across: 0, up: 2, through: 1 },
  sagittal: { title: "Sagittal", across: 1, up: 2, through: 0 },
};
const PLANE_NAMES = Object.keys(PLANES);
const AXIS_ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

class Grid {
  constructor(shape, affine) {
    this.shape = [...shape];
    this.affine = affine.map((row) => [...row]);
    this.strides = [1, shape[0], shape[0] * shape[1]]; // Fortran order: the first axis runs fastest
    this.length = shape[0] * shape[1] * shape[2];
    this.spacing = [0, 1, 2].map((v) => Math.hypot(affine[0][v], affine[1][v], affine[2][v]));
    this.axes = bodyAxes(this.affine, this.spacing);
    this.extent = this.axes.map(({ voxel }) => this.shape[voxel] * this.spacing[voxel]);
    this.inverse = inverse3(this.affine);
    this.voxelMl = Math.abs(determinant3(this.affine)) / 1000;
  }

  equals(other) {
    return Boolean(other) && String(this.shape) === String(other.shape) && String(this.affine) === String(other.affine);
  }

  toMm(voxel) {
    return [0, 1, 2].map((w) => {
      const row = this.affine[w];
      return row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3];
    });
  }

  toVoxel(mm) {
    const offset = [0, 1, 2].map((w) => mm[w] - this.affine[w][3]);
    return this.inverse.map((row) => row[0] * offset[0] + row[1] * offset[1] + row[2] * offset[2]);
  }

  toBody(voxel) {
    return this.axes.map(({ voxel: v, sign }) => {
      const index = sign > 0 ? voxel[v] : this.shape[v] - 1 - voxel[v];
      return (index + 0.5) * this.spacing[v];
    });
  }

  fromBody(body) {
    const voxel = [0, 0, 0];
    this.axes.forEach(({ voxel: v, sign }, axis) => {
      const index = body[axis] / this.spacing[v] - 0.5;
      voxel[v] = sign > 0 ? index : this.shape[v] - 1 - index;
    });
    return voxel;
  }

  nearest(voxel) {
    return voxel.map((value, v) => clamp(Math.round(value), 0, this.shape[v] - 1));
  }

  offset(voxel) {
    return voxel[0] + voxel[1] * this.strides[1] + voxel[2] * this.strides[2];
  }

  contains(voxel) {
    return voxel.every((value, v) => value > -0.5 && value < this.shape[v] - 0.5);
  }
}

// Which voxel axis, and in which direction, runs closest to each body axis (as in nibabel's axis codes).
function bodyAxes(affine, spacing) {
  const axes = [null, null, null];
  const pairs = [];
  for (let world = 0; world < 3; world++) {
    for (let voxel = 0; voxel < 3; voxel++) {
      const cosine = affine[world][voxel] / spacing[voxel];
      pairs.push({ world, voxel, strength: Math.abs(cosine), sign: cosine < 0 ? -1 : 1 });
    }
  }
  pairs.sort((a, b) => b.strength - a.strength);
  const taken = new Set();
  for (const { world, voxel, sign } of pairs) {
    if (axes[world] || taken.has(voxel)) continue;
    axes[world] = { voxel, sign };
    taken.add(voxel);
  }
  return axes;
}

function determinant3(m) {
  return (
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
    m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
    m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
  );
}

function inverse3(m) {
  const d = determinant3(m);
  const cofactor = (r, c) => {
    const [r1, r2] = [0, 1, 2].filter((i) => i !== r);
    const [c1, c2] = [0, 1, 2].filter((i) => i !== c);
    return ((r + c) % 2 ? -1 : 1) * (m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]);
  };
  return [0, 1, 2].map((r) => [0, 1, 2].map((c) => cofactor(c, r) / d));
}

// Does the screen's rightward direction run against the body axis? Radiological: the patient's left is on the right.
// A sagittal plane looks to the left of the screen in both conventions.
function isMirrored(planeName, convention) {
  return PLANES[planeName].across === 1 || convention === "radiological";
}

// The letters at the edges of a plane.
function edgeLetters(planeName, convention) {
  const { across, up } = PLANES[planeName];
  const [low, high] = AXIS_ENDS[across];
  const [left, right] = isMirrored(planeName, convention) ? [high, low] : [low, high];
  return { left, right, top: AXIS_ENDS[up][1], bottom: AXIS_ENDS[up][0] };
}

// How to walk through the voxels of one slice in the order of the screen, from its top left corner.
function sliceFrame(grid, planeName, voxel, convention) {
  const { across, up, through } = PLANES[planeName];
  const a = grid.axes[across];
  const u = grid.axes[up];
  const t = grid.axes[through];
  const right = isMirrored(planeName, convention) ? -a.sign : a.sign;
  const down = -u.sign;
  const width = grid.shape[a.voxel];
  const height = grid.shape[u.voxel];
  const start =
    voxel[t.voxel] * grid.strides[t.voxel] +
    (right < 0 ? (width - 1) * grid.strides[a.voxel] : 0) +
    (down < 0 ? (height - 1) * grid.strides[u.voxel] : 0);
  return {
    width,
    height,
    start,
    stepRight: right * grid.strides[a.voxel],
    stepDown: down * grid.strides[u.voxel],
    mmRight: grid.spacing[a.voxel],
    mmDown: grid.spacing[u.voxel],
    index: voxel[t.voxel],
    count: grid.shape[t.voxel],
    ascending: t.sign > 0,
  };
}

function cutSlice(voxels, frame) {
  const { width, height, start, stepRight, stepDown } = frame;
  const slice = new Uint8Array(width * height);
  for (let y = 0, out = 0; y < height; y++) {
    for (let x = 0, at = start + y * stepDown; x < width; x++, at += stepRight) slice[out++] = voxels[at];
  }
  return slice;
}
