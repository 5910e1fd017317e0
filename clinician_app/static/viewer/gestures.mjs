// Mouse, touch, pen, wheel and keyboard on the canvas, turned into the viewer's actions.

export function bindGestures(canvas, actions) {
  const pointers = new Map();
  let drag = null;
  let pinch = null;

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) * devicePixelRatio, y: (event.clientY - box.top) * devicePixelRatio };
  };

  const spread = () => {
    const [a, b] = [...pointers.values()];
    return { distance: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    if (pointers.size === 2) {
      drag = null;
      pinch = spread();
    } else if (pointers.size === 1) {
      const panning = event.button !== 0 || event.shiftKey || actions.mode() === "pan";
      drag = panning ? "pan" : "window";
      canvas.dataset.dragging = drag;
    }
    event.preventDefault();
  });

  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) {
      return;
    }
    const now = place(event);
    pointers.set(event.pointerId, now);
    if (pinch && pointers.size === 2) {
      const next = spread();
      actions.pan(next.x - pinch.x, next.y - pinch.y);
      if (pinch.distance > 0) {
        actions.zoomBy(next.distance / pinch.distance, next.x, next.y);
      }
      pinch = next;
    } else if (drag === "pan") {
      actions.pan(now.x - before.x, now.y - before.y);
    } else if (drag === "window") {
      actions.moveWindow((now.x - before.x) / devicePixelRatio, (now.y - before.y) / devicePixelRatio);
    }
  });

  const release = (event) => {
    pointers.delete(event.pointerId);
    pinch = null;
    drag = null;
    delete canvas.dataset.dragging;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => actions.run("fit"));

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const step = event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
    const { x, y } = place(event);
    actions.zoomBy(Math.exp(-step * (event.ctrlKey ? 0.01 : 0.0016)), x, y);
  }, { passive: false });

  const keys = {
    "+": () => actions.run("zoom-in"),
    "=": () => actions.run("zoom-in"),
    "-": () => actions.run("zoom-out"),
    f: () => actions.run("fit"),
    1: () => actions.run("actual"),
    i: () => actions.run("invert"),
    r: () => actions.run("reset"),
    w: () => actions.run("mode-window"),
    m: () => actions.run("mode-pan"),
    h: () => actions.run("heatmap"),
    "[": () => actions.opacityBy(-5),
    "]": () => actions.opacityBy(5),
  };
  const arrows = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const arrow = arrows[event.key];
    const action = keys[event.key.toLowerCase()];
    if (arrow && event.shiftKey) {
      actions.pan(-arrow[0] * 40 * devicePixelRatio, -arrow[1] * 40 * devicePixelRatio);
    } else if (arrow) {
      actions.moveWindow(arrow[0] * 8, arrow[1] * 8);
    } else if (action) {
      action();
    } else {
      return;
    }
    event.preventDefault();
  });
}
