// Where the image lies on the canvas: pure geometry, in canvas pixels.

const LEAST = 0.02;
const MOST = 32;
const KEEP_VISIBLE = 48;

export class Viewport {
  constructor(columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this.width = 1;
    this.height = 1;
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.fitted = true;
  }

  // The canvas has a new size; a fitted image stays fitted, another keeps its middle.
  resize(width, height) {
    const middleX = (this.width / 2 - this.x) / this.scale;
    const middleY = (this.height / 2 - this.y) / this.scale;
    this.width = width;
    this.height = height;
    if (this.fitted) {
      this.fit();
    } else {
      this.x = width / 2 - middleX * this.scale;
      this.y = height / 2 - middleY * this.scale;
      this.clamp();
    }
  }

  fit() {
    this.scale = Math.min(this.width / this.columns, this.height / this.rows);
    this.x = (this.width - this.columns * this.scale) / 2;
    this.y = (this.height - this.rows * this.scale) / 2;
    this.fitted = true;
  }

  // Change the scale so that the image point below (x, y) stays there.
  zoomTo(scale, x = this.width / 2, y = this.height / 2) {
    const next = Math.min(MOST, Math.max(LEAST, scale));
    const factor = next / this.scale;
    this.x = x - (x - this.x) * factor;
    this.y = y - (y - this.y) * factor;
    this.scale = next;
    this.fitted = false;
    this.clamp();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.clamp();
  }

  // A part of the image is always in sight.
  clamp() {
    const room = (size, canvas) => Math.min(KEEP_VISIBLE, size, canvas);
    const wide = this.columns * this.scale;
    const high = this.rows * this.scale;
    this.x = Math.min(this.width - room(wide, this.width), Math.max(room(wide, this.width) - wide, this.x));
    this.y = Math.min(this.height - room(high, this.height), Math.max(room(high, this.height) - high, this.y));
  }

  // The part of the image that is in sight, in image pixels, rounded outwards.
  visible() {
    const left = Math.max(0, Math.floor(-this.x / this.scale));
    const top = Math.max(0, Math.floor(-this.y / this.scale));
    const right = Math.min(this.columns, Math.ceil((this.width - this.x) / this.scale));
    const bottom = Math.min(this.rows, Math.ceil((this.height - this.y) / this.scale));
    return { left, top, right: Math.max(left, right), bottom: Math.max(top, bottom) };
  }
}
