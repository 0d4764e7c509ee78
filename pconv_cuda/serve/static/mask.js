// The hole of a picture at its full size: one byte a pixel, 1 in the hole; and what can be undone.
//
// A stroke of diameter d holds every pixel whose centre lies at most d/2 from the line through its points, and the
// pixels in which the points lie. There are no soft edges, and the zoom does not matter: points are in pixels of the
// picture, with fractions.

const SHOWN = 4e6; // pixels; larger masks are shown from cells of several pixels

export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.bytes = new Uint8Array(width * height);
    this.cell = Math.max(1, Math.ceil(Math.sqrt((width * height) / SHOWN))); // pixels a side
    this.cellWidth = Math.ceil(width / this.cell);
    this.cellHeight = Math.ceil(height / this.cell);
    this.cells = this.cell === 1 ? this.bytes : new Uint8Array(this.cellWidth * this.cellHeight);
    this.done = []; // steps
    this.undone = [];
    this.version = 0; // another number whenever the hole is another one
  }

  // ---- steps: {kind: "stroke", value, size, points}, {kind: "clear"}, {kind: "invert"}, {kind: "load", bits}

  add(step) {
    this.done.push(step);
    this.undone = [];
    this.apply(step);
  }

  begin(value, size, x, y) {
    this.add({ kind: "stroke", value, size, points: [x, y] });
  }

  extend(x, y) {
    const { points, size, value } = this.done[this.done.length - 1];
    const [fromX, fromY] = points.slice(-2);
    if (fromX === x && fromY === y) return;
    points.push(x, y);
    this.segment(fromX, fromY, x, y, size / 2, value);
    this.version += 1;
  }

  undo() {
    if (!this.done.length) return false;
    this.undone.push(this.done.pop());
    this.replay();
    return true;
  }

  redo() {
    if (!this.undone.length) return false;
    const step = this.undone.pop();
    this.done.push(step);
    this.apply(step);
    return true;
  }

  drop() { // the last step, as if it had never been
    this.done.pop();
    this.replay();
  }

  replay() {
    let first = this.done.length;
    while (first > 0 && !["clear", "load"].includes(this.done[first - 1].kind)) first -= 1;
    this.bytes.fill(0);
    this.cells.fill(0);
    for (const step of this.done.slice(Math.max(0, first - 1))) this.apply(step);
    this.version += 1;
  }

  apply(step) {
    if (step.kind === "clear") this.bytes.fill(0);
    else if (step.kind === "invert") for (let k = 0; k < this.bytes.length; k += 1) this.bytes[k] ^= 1;
    else if (step.kind === "load") this.unpack(step.bits);
    else {
      const { points, size, value } = step;
      if (points.length === 2) this.segment(points[0], points[1], points[0], points[1], size / 2, value);
      for (let k = 2; k < points.length; k += 2) {
        this.segment(points[k - 2], points[k - 1], points[k], points[k + 1], size / 2, value);
      }
    }
    if (step.kind !== "stroke") this.updateCells(0, 0, this.width, this.height);
    this.version += 1;
  }

  // ---- pixels

  segment(ax, ay, bx, by, radius, value) {
    const { width, height, bytes } = this;
    const top = Math.max(0, Math.floor(Math.min(ay, by) - radius));
    const bottom = Math.min(height, Math.ceil(Math.max(ay, by) + radius) + 1);
    const length = Math.hypot(bx - ax, by - ay);
    const [sideX, sideY] = length ? [(-(by - ay) / length) * radius, ((bx - ax) / length) * radius] : [0, 0];
    const corners = [[ax + sideX, ay + sideY], [bx + sideX, by + sideY], [bx - sideX, by - sideY], [ax - sideX, ay - sideY]];
    let [left, right] = [width, 0];
    for (let y = top; y < bottom; y += 1) {
      const middle = y + 0.5;
      let [from, to] = [Infinity, -Infinity]; // where the row's centres are within the stroke: one interval
      for (const [x, at] of [[ax, ay], [bx, by]]) {
        const square = radius * radius - (middle - at) * (middle - at);
        if (square < 0) continue;
        from = Math.min(from, x - Math.sqrt(square));
        to = Math.max(to, x + Math.sqrt(square));
      }
      for (let k = 0; length && k < 4; k += 1) {
        const [[px, py], [qx, qy]] = [corners[k], corners[(k + 1) % 4]];
        if (py === qy || middle < Math.min(py, qy) || middle > Math.max(py, qy)) continue;
        const x = px + ((middle - py) / (qy - py)) * (qx - px);
        from = Math.min(from, x);
        to = Math.max(to, x);
      }
      const first = Math.max(0, Math.ceil(from - 0.5));
      const behind = Math.min(width, Math.floor(to - 0.5) + 1);
      if (first >= behind) continue;
      bytes.fill(value, y * width + first, y * width + behind);
      left = Math.min(left, first);
      right = Math.max(right, behind);
    }
    for (const [x, y] of [[Math.floor(ax), Math.floor(ay)], [Math.floor(bx), Math.floor(by)]]) {
      if (x < 0 || y < 0 || x >= width || y >= height) continue;
      bytes[y * width + x] = value;
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
    }
    if (left < right) this.updateCells(left, top, right, bottom);
  }

  updateCells(left, top, right, bottom) {
    const { cell, width, height, bytes, cells, cellWidth } = this;
    if (cell === 1) return;
    for (let row = Math.floor(top / cell); row * cell < bottom; row += 1) {
      for (let column = Math.floor(left / cell); column * cell < right; column += 1) {
        let any = 0;
        for (let y = row * cell; y < Math.min(height, (row + 1) * cell) && !any; y += 1) {
          const start = y * width + column * cell;
          for (let k = start; k < Math.min(y * width + width, start + cell) && !any; k += 1) any = bytes[k];
        }
        cells[row * cellWidth + column] = any;
      }
    }
  }

  count() {
    let sum = 0;
    for (let k = 0; k < this.bytes.length; k += 1) sum += this.bytes[k];
    return sum;
  }

  // ---- rows of bits, eight pixels a byte, the first one highest; each row begins with a new byte

  pack(before = 0) { // bytes of 0 before each row
    const stride = Math.ceil(this.width / 8) + before;
    const packed = new Uint8Array(stride * this.height);
    for (let y = 0, k = 0; y < this.height; y += 1) {
      for (let x = 0; x < this.width; x += 1, k += 1) {
        if (this.bytes[k]) packed[y * stride + before + (x >> 3)] |= 128 >> (x & 7);
      }
    }
    return packed;
  }

  unpack(bits) {
    const stride = Math.ceil(this.width / 8);
    for (let y = 0, k = 0; y < this.height; y += 1) {
      for (let x = 0; x < this.width; x += 1, k += 1) this.bytes[k] = (bits[y * stride + (x >> 3)] >> (7 - (x & 7))) & 1;
    }
  }
}
