// The image viewer. Without it the page shows the same image and heatmap as plain pictures; with it they can be worked with.

import { bindGestures } from "./gestures.mjs";
import { Viewport } from "./viewport.mjs";
import { WindowedImage } from "./windowed_image.mjs";

class Viewer {
  constructor(root) {
    const part = (name) => root.querySelector(`[data-${name}]`);
    this.root = root;
    this.words = JSON.parse(root.dataset.words);
    this.canvas = part("canvas");
    this.context = this.canvas.getContext("2d");
    this.base = part("base");
    this.heatmap = part("heatmap");
    this.overlay = part("overlay");
    this.opacity = part("opacity");
    this.opacityOut = part("opacity-out");
    this.readout = part("readout");
    this.zoomOut = part("zoom");
    this.message = part("message");
    this.mode = "window";
    this.inverted = false;
    this.values = null;
    this.asked = false;
  }

  async start() {
    try {
      await this.base.decode();
    } catch {
      this.say(this.words.imageFailed, true);
      return;
    }
    this.viewport = new Viewport(this.base.naturalWidth, this.base.naturalHeight);
    this.canvas.hidden = false;
    for (const tools of this.root.querySelectorAll("[data-tools]")) {
      tools.hidden = false;
    }
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.resize();
    this.base.parentElement.hidden = true;
    this.loadHeatmap();
    await this.loadValues();
  }

  async loadHeatmap() {
    if (!this.heatmap) {
      return;
    }
    try {
      await this.heatmap.decode();
      this.ask();
    } catch {
      this.heatmap = null;
      this.say(this.words.heatmapFailed, true);
    }
  }

  async loadValues() {
    try {
      const answer = await fetch(this.root.dataset.pixels, { credentials: "same-origin" });
      if (answer.status === 204) {
        this.setMode("pan");
        this.root.querySelector('[data-action="mode-window"]').hidden = true;
        return;
      }
      if (!answer.ok) {
        throw new Error(String(answer.status));
      }
      const description = JSON.parse(answer.headers.get("X-Frame"));
      const buffer = await answer.arrayBuffer();
      this.values = new WindowedImage(description, new Uint16Array(buffer));
      this.center = description.center;
      this.width = description.width;
      this.applyWindow();
    } catch {
      this.setMode("pan");
      this.root.querySelector('[data-action="mode-window"]').disabled = true;
      this.say(this.words.valuesFailed, true);
    }
  }

  listen() {
    bindGestures(this.canvas, {
      mode: () => this.mode,
      run: (name) => this.run(name),
      pan: (dx, dy) => { this.viewport.pan(dx, dy); this.ask(); },
      zoomBy: (factor, x, y) => { this.viewport.zoomTo(this.viewport.scale * factor, x, y); this.ask(); },
      moveWindow: (dx, dy) => this.moveWindow(dx, dy),
      opacityBy: (step) => this.opacityBy(step),
    });
    for (const button of this.root.querySelectorAll("[data-action]")) {
      button.addEventListener("click", () => this.run(button.dataset.action));
    }
    if (this.overlay) {
      this.overlay.addEventListener("change", () => this.ask());
      this.opacity.addEventListener("input", () => this.ask());
    }
  }

  run(name) {
    const steps = {
      "mode-window": () => this.setMode("window"),
      "mode-pan": () => this.setMode("pan"),
      "zoom-in": () => this.viewport.zoomTo(this.viewport.scale * 1.25),
      "zoom-out": () => this.viewport.zoomTo(this.viewport.scale / 1.25),
      fit: () => this.viewport.fit(),
      actual: () => this.viewport.zoomTo(1),
      invert: () => this.setInverted(!this.inverted),
      reset: () => this.reset(),
      heatmap: () => { if (this.overlay) { this.overlay.checked = !this.overlay.checked; } },
    };
    steps[name]?.();
    this.ask();
  }

  setMode(mode) {
    if (mode === "window" && this.root.querySelector('[data-action="mode-window"]').disabled) {
      return;
    }
    this.mode = mode;
    this.canvas.dataset.mode = mode;
    for (const name of ["window", "pan"]) {
      this.root.querySelector(`[data-action="mode-${name}"]`).setAttribute("aria-pressed", String(name === mode));
    }
  }

  setInverted(inverted) {
    this.inverted = inverted;
    this.root.querySelector('[data-action="invert"]').setAttribute("aria-pressed", String(inverted));
    this.applyWindow();
  }

  reset() {
    if (this.values) {
      this.center = this.values.description.center;
      this.width = this.values.description.width;
    }
    this.setInverted(false);
    this.viewport.fit();
  }

  // Right: more contrast range; down: darker, as on a workstation. A drag over 400 px covers the first window.
  moveWindow(dx, dy) {
    if (!this.values) {
      return;
    }
    const step = this.values.description.width / 400;
    const darker = this.values.description.inverted ? -1 : 1;
    this.width = Math.max(1, this.width + dx * step);
    this.center += dy * step * darker;
    this.applyWindow();
  }

  applyWindow() {
    this.values?.setWindow(this.center, this.width, this.inverted);
    this.ask();
  }

  opacityBy(step) {
    if (this.opacity) {
      this.opacity.value = String(Number(this.opacity.value) + step);
      this.ask();
    }
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const width = Math.max(1, Math.round(box.width * devicePixelRatio));
    const height = Math.max(1, Math.round(box.height * devicePixelRatio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.viewport.resize(width, height);
      this.draw();
    }
  }

  // Draw once before the next picture of the screen, however many things changed.
  ask() {
    if (!this.asked) {
      this.asked = true;
      requestAnimationFrame(() => {
        this.asked = false;
        this.draw();
      });
    }
  }

  draw() {
    const { context, viewport } = this;
    context.globalAlpha = 1;
    context.fillStyle = "#000";
    context.fillRect(0, 0, viewport.width, viewport.height);
    const box = [viewport.x, viewport.y, viewport.columns * viewport.scale, viewport.rows * viewport.scale];
    if (this.values) {
      this.values.draw(context, viewport);
    } else {
      context.imageSmoothingQuality = "high";
      context.drawImage(this.base, ...box);
      if (this.inverted) {
        context.globalCompositeOperation = "difference";
        context.fillStyle = "#fff";
        context.fillRect(...box);
        context.globalCompositeOperation = "source-over";
      }
    }
    if (this.heatmap?.complete && this.heatmap.naturalWidth && this.overlay?.checked) {
      context.imageSmoothingEnabled = true;
      context.globalAlpha = Number(this.opacity.value) / 100;
      context.drawImage(this.heatmap, ...box);
      context.globalAlpha = 1;
    }
    this.tell();
  }

  tell() {
    const zoom = `${Math.round(this.viewport.scale * 100)}%`;
    this.zoomOut.textContent = zoom;
    const number = (value) => String(Number(value.toPrecision(5)));
    this.readout.textContent = this.values ? `${this.words.window} ${number(this.width)}  ${this.words.level} ${number(this.center)}` : "";
    if (this.opacity) {
      this.opacityOut.textContent = `${this.opacity.value}%`;
    }
  }

  say(words, bad) {
    this.message.textContent = words;
    this.message.hidden = false;
    this.message.toggleAttribute("data-bad", bad);
    if (this.viewport) {
      setTimeout(() => { this.message.hidden = true; }, 6000);
    }
  }
}

for (const root of document.querySelectorAll("[data-viewer]")) {
  new Viewer(root).start();
}
