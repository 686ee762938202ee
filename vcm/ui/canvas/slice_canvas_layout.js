// Where the planes stand: sizes that follow from the width and the volume's extent, before anything is loaded.

const COMPACT_WIDTH = 540; // below: one large plane and two thumbnails
const WIDE_WIDTH = 800; // from here on: three planes side by side
const MOST_PLANE_HEIGHT = 540;
const LARGE_PLANE_ASPECT = 1.12;
const THUMBNAIL_ASPECT = 0.78;
const SLIDER_HEIGHT = 36; // under each plane, as in the style sheet
const STRIP_HEIGHT = 88; // of the panel under three planes in a row, where it takes two lines
const GAP = 6; // as in the style sheet

function chooseArrangement(width, wanted) {
  if (wanted && wanted !== "auto") return wanted;
  if (width >= WIDE_WIDTH) return "row";
  return width >= COMPACT_WIDTH ? "quad" : "focus";
}

// The size of each plane in CSS pixels, its scale `fit` in pixels per millimetre, and whether it is a thumbnail.
// "row" and "quad" show all planes at one scale, so that anatomy has one size, and keep within `room`, the height that
// the page gives the stage; "focus" fits the large plane.
function planLayout(arrangement, width, room, [x, y, z], largePlane) {
  const sizes = { axial: [x, y], coronal: [x, z], sagittal: [y, z] };
  if (arrangement === "row") return planRow(width, room, sizes);
  if (arrangement === "quad") return planQuad(width, room, sizes);
  return planFocus(width, sizes, largePlane);
}

function planRow(width, room, sizes) {
  const across = Object.values(sizes).reduce((sum, [w]) => sum + w, 0);
  const tallest = Math.max(...Object.values(sizes).map(([, h]) => h));
  const height = Math.min(MOST_PLANE_HEIGHT, room - SLIDER_HEIGHT - STRIP_HEIGHT);
  const fit = Math.min((width - 2 * GAP) / across, height / tallest);
  const spare = (width - 2 * GAP - across * fit) / 3;
  return mapPlanes(sizes, ([w]) => ({ width: w * fit + spare, height: tallest * fit, fit }));
}

function planQuad(width, room, sizes) {
  const across = sizes.axial[0] + sizes.sagittal[0];
  const down = sizes.coronal[1] + sizes.axial[1];
  const fit = Math.min((width - GAP) / across, (room - 2 * SLIDER_HEIGHT - GAP) / down);
  const spare = width - GAP - across * fit;
  return mapPlanes(sizes, ([w, h], name) => {
    const extra = name === "sagittal" ? 0.6 * spare : 0.4 * spare; // the column of the panel gets more
    return { width: w * fit + extra, height: h * fit, fit };
  });
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
