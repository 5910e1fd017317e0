// 16-bit values of one frame, shown through a window (DICOM PS3.3 C.11.2.1.2.1).
//
// Halved copies are kept for small scales, and only what is in sight is looked up: moving the window costs about as many steps as the
// canvas has pixels, whatever the detector's size.

const OPAQUE = 0xff000000;

export class WindowedImage {
  // description: see clinician_app/pixel_frames.py; values: Uint16Array.
  constructor(description, values) {
    this.description = description;
    this.columns = description.columns;
    this.rows = description.rows;
    this.levels = [{ columns: this.columns, rows: this.rows, values }];
    this.lookup = new Uint32Array(65536);
    this.surface = document.createElement("canvas");
    this.pen = this.surface.getContext("2d", { willReadFrequently: true });
    this.painted = null;
    this.setWindow(description.center, description.width, false);
  }

  setWindow(center, width, inverted) {
    const { slope, intercept, padding } = this.description;
    const bright = this.description.inverted !== inverted;
    const span = Math.max(width - 1, 1e-6);
    for (let value = 0; value < 65536; value += 1) {
      const shown = (value * slope + intercept - (center - 0.5)) / span + 0.5;
      const level = Math.round(255 * Math.min(1, Math.max(0, bright ? 1 - shown : shown)));
      this.lookup[value] = OPAQUE | (level << 16) | (level << 8) | level;
    }
    if (padding !== null) {
      this.lookup[padding] = OPAQUE;
    }
    this.painted = null;
  }

  // Draw what is in sight.
  draw(context, viewport) {
    const depth = Math.max(0, Math.floor(Math.log2(1 / viewport.scale)));
    const level = this.level(depth);
    const ratioX = level.columns / this.columns;
    const ratioY = level.rows / this.rows;
    const sight = viewport.visible();
    const area = {
      left: Math.max(0, Math.floor(sight.left * ratioX) - 1),
      top: Math.max(0, Math.floor(sight.top * ratioY) - 1),
      right: Math.min(level.columns, Math.ceil(sight.right * ratioX) + 1),
      bottom: Math.min(level.rows, Math.ceil(sight.bottom * ratioY) + 1),
    };
    if (area.right <= area.left || area.bottom <= area.top) {
      return;
    }
    this.paint(level, area);
    const done = this.painted;
    context.imageSmoothingEnabled = viewport.scale < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(
      this.surface, 0, 0, done.right - done.left, done.bottom - done.top,
      viewport.x + (done.left / ratioX) * viewport.scale,
      viewport.y + (done.top / ratioY) * viewport.scale,
      ((done.right - done.left) / ratioX) * viewport.scale,
      ((done.bottom - done.top) / ratioY) * viewport.scale,
    );
  }

  paint(level, area) {
    const old = this.painted;
    if (old && old.level === level && old.left <= area.left && old.top <= area.top
      && old.right >= area.right && old.bottom >= area.bottom) {
      return;
    }
    const width = area.right - area.left;
    const height = area.bottom - area.top;
    if (this.surface.width < width || this.surface.height < height) {
      this.surface.width = Math.max(width, this.surface.width);
      this.surface.height = Math.max(height, this.surface.height);
    }
    const pixels = this.pen.createImageData(width, height);
    const out = new Uint32Array(pixels.data.buffer);
    const { values, columns } = level;
    const lookup = this.lookup;
    let target = 0;
    for (let row = area.top; row < area.bottom; row += 1) {
      let source = row * columns + area.left;
      for (let column = 0; column < width; column += 1) {
        out[target] = lookup[values[source]];
        target += 1;
        source += 1;
      }
    }
    this.pen.putImageData(pixels, 0, 0);
    this.painted = { ...area, level };
  }

  level(depth) {
    while (this.levels.length <= depth) {
      const last = this.levels[this.levels.length - 1];
      if (Math.min(last.columns, last.rows) < 64) {
        break;
      }
      this.levels.push(this.halved(last));
    }
    return this.levels[Math.min(depth, this.levels.length - 1)];
  }

  halved({ columns, rows, values }) {
    const wide = columns >> 1;
    const high = rows >> 1;
    const half = new Uint16Array(wide * high);
    const padding = this.description.padding;
    let target = 0;
    for (let row = 0; row < high; row += 1) {
      let source = row * 2 * columns;
      for (let column = 0; column < wide; column += 1) {
        const a = values[source];
        const b = values[source + 1];
        const c = values[source + columns];
        const d = values[source + columns + 1];
        // padding stands for no value: it must not be averaged with any
        const padded = padding !== null && (a === padding || b === padding || c === padding || d === padding);
        half[target] = padded ? a : (a + b + c + d + 2) >> 2;
        target += 1;
        source += 2;
      }
    }
    return { columns: wide, rows: high, values: half };
  }
}
