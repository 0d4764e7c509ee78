// What the canvas shows: the picture before and after, the hole over it, and the brush. Lengths are in pixels of the
// screen's own (CSS pixels times devicePixelRatio); `scale` is how many of them a pixel of the picture has.

const HOLE = [255, 0, 128, 165];
const DIVIDER = 12; // CSS pixels beside the line between before and after that take hold of it

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.overlay = document.createElement("canvas");
    this.picture = null;
    this.brush = null; // {x, y} in pixels of the picture, and its size
    this.showHole = true;
    this.planned = false;
    this.resized = () => {};
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  get ratio() { return window.devicePixelRatio || 1; }

  resize() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((side) => Math.max(1, Math.round(side * this.ratio)));
    if (width === this.canvas.width && height === this.canvas.height) return;
    [this.canvas.width, this.canvas.height] = [width, height];
    if (this.picture) {
      if (this.picture.fitted) this.fit();
      else this.place();
    }
    this.draw();
  }

  show(picture) {
    this.picture = picture;
    if (picture && !picture.scale) this.fit();
    this.draw();
  }

  // ---- where the picture lies: its pixel (left, top) is at the canvas' upper left corner

  fitScale() {
    const { width, height } = this.picture;
    return Math.min(this.canvas.width / width, this.canvas.height / height, 64);
  }

  fit() {
    const { picture } = this;
    picture.scale = this.fitScale();
    picture.left = picture.top = 0;
    picture.fitted = true;
    this.place();
  }

  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const { picture } = this;
    const scale = Math.min(64, Math.max(Math.min(0.05, this.fitScale() / 2), picture.scale * factor));
    picture.left += x / picture.scale - x / scale;
    picture.top += y / picture.scale - y / scale;
    picture.scale = scale;
    picture.fitted = false;
    this.place();
  }

  move(x, y) {
    this.picture.left -= x / this.picture.scale;
    this.picture.top -= y / this.picture.scale;
    this.picture.fitted = false;
    this.place();
  }

  place() { // in the middle where there is room, else without a gap beside it; at 100 % on whole pixels
    const { picture, canvas } = this;
    for (const [side, start, room] of [["width", "left", canvas.width], ["height", "top", canvas.height]]) {
      const seen = room / picture.scale;
      const spare = picture[side] - seen;
      picture[start] = spare <= 0 ? spare / 2 : Math.min(spare, Math.max(0, picture[start]));
      picture[start] = Math.round(picture[start] * picture.scale) / picture.scale;
    }
    canvas.dataset.view = `${picture.left} ${picture.top} ${picture.scale}`;
    this.draw();
  }

  toPicture(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    const { picture, ratio } = this;
    return [picture.left + ((clientX - box.left) * ratio) / picture.scale, picture.top + ((clientY - box.top) * ratio) / picture.scale];
  }

  toCanvas(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    return [(clientX - box.left) * this.ratio, (clientY - box.top) * this.ratio];
  }

  reveal(x, y) { // moves the picture so far that this point of it is seen
    const { picture, canvas } = this;
    const margin = Math.min(40, canvas.width / 4, canvas.height / 4) / picture.scale;
    picture.left = Math.min(x - margin, Math.max(x + margin - canvas.width / picture.scale, picture.left));
    picture.top = Math.min(y - margin, Math.max(y + margin - canvas.height / picture.scale, picture.top));
    this.place();
  }

  // ---- before and after

  get dividerX() { // on the canvas; within what is seen of the picture
    const { picture, canvas } = this;
    const from = Math.max(0, -picture.left * picture.scale);
    const to = Math.min(canvas.width, (picture.width - picture.left) * picture.scale);
    return Math.round(from + (to - from) * picture.split);
  }

  nearDivider(clientX) {
    const { picture } = this;
    if (!picture || !picture.after || picture.split <= 0 || picture.split >= 1) return false;
    return Math.abs(this.toCanvas(clientX, 0)[0] - this.dividerX) < DIVIDER * this.ratio;
  }

  splitAt(clientX) {
    const { picture, canvas } = this;
    const from = Math.max(0, -picture.left * picture.scale);
    const to = Math.min(canvas.width, (picture.width - picture.left) * picture.scale);
    return Math.min(1, Math.max(0, (this.toCanvas(clientX, 0)[0] - from) / (to - from)));
  }

  // ---- drawing, once a frame

  draw() {
    if (this.planned) return;
    this.planned = true;
    requestAnimationFrame(() => {
      this.planned = false;
      this.paint();
    });
  }

  paint() {
    const { context, canvas, picture } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!picture) return;
    const x = Math.round(-picture.left * picture.scale);
    const y = Math.round(-picture.top * picture.scale);
    const size = [picture.width * picture.scale, picture.height * picture.scale];
    context.save();
    context.beginPath();
    context.rect(x, y, ...size);
    context.clip();
    context.fillStyle = this.checks();
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = picture.scale < 2;
    context.imageSmoothingQuality = "medium";
    context.drawImage(picture.before, x, y, ...size);
    if (picture.after && picture.split < 1) {
      const divider = this.dividerX;
      context.save();
      context.beginPath();
      context.rect(divider, 0, canvas.width, canvas.height);
      context.clip();
      context.fillStyle = this.checks();
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(picture.after, x, y, ...size);
      context.restore();
    }
    if (this.showHole) {
      if (picture.after && picture.filled === picture.mask.version) { // what is filled has no hole any more
        context.beginPath();
        context.rect(0, 0, this.dividerX, canvas.height);
        context.clip();
      }
      this.paintHole();
    }
    context.restore();
    if (picture.after && picture.split > 0 && picture.split < 1) this.paintDivider(this.dividerX, y, size[1]);
    this.paintBrush();
  }

  checks() { // behind what is transparent
    const tile = document.createElement("canvas");
    tile.width = tile.height = 16;
    const context = tile.getContext("2d");
    context.fillStyle = "#bbb";
    context.fillRect(0, 0, 16, 16);
    context.fillStyle = "#888";
    context.fillRect(0, 0, 8, 8);
    context.fillRect(8, 8, 8, 8);
    return this.context.createPattern(tile, "repeat");
  }

  paintDivider(x, top, height) {
    const { context, canvas, ratio } = this;
    context.fillStyle = "#000";
    context.fillRect(x - 2 * ratio, top, 4 * ratio, height);
    context.fillStyle = "#fff";
    context.fillRect(x - ratio, top, 2 * ratio, height);
    const middle = canvas.height / 2;
    context.beginPath();
    context.arc(x, middle, 11 * ratio, 0, 2 * Math.PI);
    context.fill();
    context.strokeStyle = "#000";
    context.lineWidth = 1.5 * ratio;
    context.stroke();
    context.beginPath();
    for (const side of [-1, 1]) {
      context.moveTo(x + side * 3 * ratio, middle - 4 * ratio);
      context.lineTo(x + side * 7 * ratio, middle);
      context.lineTo(x + side * 3 * ratio, middle + 4 * ratio);
    }
    context.stroke();
  }

  paintHole() {
    const { picture, canvas, overlay } = this;
    const { mask, scale } = picture;
    const coarse = mask.cell > 1 && scale * mask.cell <= 1;
    const cell = coarse ? mask.cell : 1;
    const source = coarse ? mask.cells : mask.bytes;
    const stride = coarse ? mask.cellWidth : mask.width;
    const rows = coarse ? mask.cellHeight : mask.height;
    [overlay.width, overlay.height] = [canvas.width, canvas.height];
    const context = overlay.getContext("2d");
    const shown = context.createImageData(overlay.width, overlay.height);
    const colour = new Uint32Array(new Uint8Array(HOLE).buffer)[0];
    const pixels = new Uint32Array(shown.data.buffer);
    const spans = (start, count, most) => Array.from({ length: count }, (_, k) => {
      const from = Math.floor((start + k / scale) / cell);
      return [Math.max(0, from), Math.min(most, Math.max(from + 1, Math.floor((start + (k + 1) / scale) / cell)))];
    });
    const columns = spans(picture.left + 1e-6, overlay.width, stride);
    spans(picture.top + 1e-6, overlay.height, rows).forEach(([top, bottom], row) => {
      for (let column = 0; column < columns.length; column += 1) {
        const [left, right] = columns[column];
        let any = 0;
        for (let y = top; y < bottom && !any; y += 1) for (let k = left; k < right && !any; k += 1) any = source[y * stride + k];
        if (any) pixels[row * overlay.width + column] = colour;
      }
    });
    context.putImageData(shown, 0, 0);
    this.context.drawImage(overlay, 0, 0);
  }

  paintBrush() {
    const { brush, context, picture, ratio } = this;
    if (!brush) return;
    const [x, y] = [(brush.x - picture.left) * picture.scale, (brush.y - picture.top) * picture.scale];
    const radius = Math.max(2 * ratio, (brush.size / 2) * picture.scale);
    for (const [colour, width] of [["#000", 3.5], [brush.down ? "#ffe14d" : "#fff", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.moveTo(x - 4 * ratio, y);
      context.lineTo(x + 4 * ratio, y);
      context.moveTo(x, y - 4 * ratio);
      context.lineTo(x, y + 4 * ratio);
      context.stroke();
    }
  }
}
