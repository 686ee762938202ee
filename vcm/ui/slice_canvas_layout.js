// Where the planes stand: sizes that follow from the width and the volume's extent, before anything is loaded.

const COMPACT_WIDTH = 540; // below: one large plane and two thumbnails
const WIDE_WIDTH = 800; // from here on: three planes side by side
const MOST_PLANE_HEIGHT = 540;
const LARGE_PLANE_ASPECT = 1.12;
const THUMBNAIL_ASPECT = 0.78;
const GAP = 6; // as in the style sheet

function chooseArrangement(width, wanted) {
  if (wanted && wanted !== "auto") return wanted;
  if (width >= WIDE_WIDTH) return "row";
  return width >= COMPACT_WIDTH ? "quad" : "focus";
}

// The size of each plane in CSS pixels, its scale `fit` in pixels per millimetre, and whether it is a thumbnail.
// "row" and "quad" show all planes at one scale, so that anatomy has one size; "focus" fits the large plane.
function planLayout(arrangement, width, [x, y, z], largePlane) {
  const sizes = { axial: [x, y], coronal: [x, z], sagittal: [y, z] };
  return { row: planRow, quad: planQuad, focus: planFocus }[arrangement](width, sizes, largePlane);
}

function planRow(width, sizes) {
  const across = Object.values(sizes).reduce((sum, [w]) => sum + w, 0);
  const tallest = Math.max(...Object.values(sizes).map(([, h]) => h));
  const fit = Math.min((width - 2 * GAP) / across, MOST_PLANE_HEIGHT / tallest);
  const spare = (width - 2 * GAP - across * fit) / 3;
  return mapPlanes(sizes, ([w]) => ({ width: w * fit + spare, height: tallest * fit, fit }));
}

function planQuad(width, sizes) {
  const fit = (width - GAP) / (sizes.axial[0] + sizes.sagittal[0]);
  return mapPlanes(sizes, ([w, h]) => ({ width: w * fit, height: h * fit, fit }));
}

function planFocus(width, sizes, largePlane) {
  const large = [width, Math.min(width * LARGE_PLANE_ASPECT, MOST_PLANE_HEIGHT)];
  const half = (width - GAP) / 2;
  const small = [half, half * THUMBNAIL_ASPECT];
  const others = PLANE_NAMES.filter((name) => name !== largePlane);
  const smallFit = Math.min(...others.map((name) => fitInside(sizes[name], small)));
  return mapPlanes(sizes, (size, name) =>
    name === largePlane
      ? { width: large[0], height: large[1], fit: fitInside(size, large) }
      : { width: small[0], height: small[1], fit: smallFit, isThumbnail: true });
}

function mapPlanes(sizes, plan) {
  return Object.fromEntries(PLANE_NAMES.map((name) => [name, plan(sizes[name], name)]));
}

function fitInside([width, height], [roomWidth, roomHeight]) {
  return Math.min(roomWidth / width, roomHeight / height);
}
