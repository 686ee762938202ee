// Mouse, pen, touch and wheel on one plane, turned into what the user means.
//
// Left button or one finger: the tool. Shift: crosshair. Middle button or Alt: pan. Right button or Ctrl: window.
// Two fingers: pinch and pan. Wheel: slices. Ctrl and wheel: zoom.

const WHEEL_STEP = 50;

function attachGestures(view, host) {
  const { canvas } = view;
  const pointers = new Map(); // id -> point, of what is pressed now
  let mode = null; // "stroke", "crosshair", "pan", "window", "pinch", or "over" until every finger is lifted
  let last = null;
  let pinch = null;
  let crosshairBefore = null;
  let wheel = 0;
  let isFilling = false; // a finger is down that will fill once it lifts, unless it begins a pinch or a scroll

  const meaning = (event) => {
    if (event.button === 2 || (event.button === 0 && event.ctrlKey)) return "window";
    if (event.button === 1 || event.altKey) return "pan";
    if (event.shiftKey || !host.isDrawingTool) return "crosshair";
    return "stroke";
  };

  const measurePinch = () => {
    const [a, b] = [...pointers.values()];
    const distance = Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
    return { middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], distance };
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (!host.grid || view.isThumbnail) return;
    const point = view.pointOf(event);
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, point);
    if (pointers.size === 2) {
      if (mode === "stroke") host.cancelStroke();
      mode = "pinch";
      pinch = measurePinch();
      return;
    }
    if (pointers.size > 2) return;
    mode = meaning(event);
    last = point;
    isFilling = mode === "stroke" && host.tool === "fill" && event.pointerType === "touch";
    if (mode === "stroke" && !isFilling) host.beginStroke(view, point);
    // A finger may be about to scroll the page: it moves the crosshair when it moves or lifts, not when it lands.
    crosshairBefore = host.crosshair;
    if (mode === "crosshair" && event.pointerType !== "touch") host.pointCrosshair(view, point);
    if (event.pointerType === "mouse" && event.button === 1) event.preventDefault(); // no auto-scroll
  });

  canvas.addEventListener("pointermove", (event) => {
    if (!host.grid || view.isThumbnail) return;
    const point = view.pointOf(event);
    host.hoverAt(view, event.pointerType === "touch" ? null : point);
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, point);
    if (mode === "stroke") {
      const passed = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      host.continueStroke(view, passed.length ? passed.map((e) => view.pointOf(e)) : [point]);
    } else if (mode === "crosshair") {
      host.pointCrosshair(view, point);
    } else if (mode === "pan") {
      host.panBy(view, point[0] - last[0], point[1] - last[1]);
    } else if (mode === "window") {
      host.dragWindow(point[0] - last[0], point[1] - last[1]);
    } else if (mode === "pinch" && pointers.size === 2) {
      const now = measurePinch();
      host.panBy(view, now.middle[0] - pinch.middle[0], now.middle[1] - pinch.middle[1]);
      host.zoomAt(view, now.middle, now.distance / pinch.distance);
      pinch = now;
    }
    last = point;
  });

  const lift = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (mode === "stroke" && isFilling && event.type === "pointerup") host.fillAt(view, view.pointOf(event));
    if (mode === "stroke") host.endStroke();
    if (mode === "crosshair" && event.type === "pointerup") host.pointCrosshair(view, view.pointOf(event));
    if (mode === "crosshair" && event.type === "pointercancel") host.setCrosshair(crosshairBefore); // it was a scroll
    mode = pointers.size ? "over" : null;
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => host.hoverAt(view, null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("click", () => view.isThumbnail && host.enlargePlane(view));

  // The page may scroll under one finger (see touch-action in the style sheet), never under two.
  canvas.addEventListener("touchstart", (event) => {
    if (event.touches.length > 1) event.preventDefault();
  }, { passive: false });

  canvas.addEventListener("wheel", (event) => {
    if (!host.grid) return;
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      host.zoomAt(view, view.pointOf(event), Math.exp(-clamp(event.deltaY, -120, 120) / 400));
      return;
    }
    wheel += event.deltaMode === 0 ? event.deltaY : event.deltaY * WHEEL_STEP;
    if (Math.abs(wheel) < WHEEL_STEP) return;
    host.stepSlice(view, wheel < 0 ? 1 : -1);
    wheel = 0;
  }, { passive: false });
}
