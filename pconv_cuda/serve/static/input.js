// Mouse, pen, touch and keys on the canvas. What they mean is told to `act`, an object of functions (page.js).

export class Input {
  constructor(view, act) {
    this.view = view;
    this.act = act;
    this.pointers = new Map();
    this.mode = ""; // what a drag does now: stroke, move, split, pinch
    this.down = false; // the brush, by key
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    canvas.addEventListener("pointerup", (event) => this.lift(event));
    canvas.addEventListener("pointercancel", (event) => this.lift(event, true));
    canvas.addEventListener("pointerleave", () => { if (!this.down && !this.mode) this.hideBrush(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) this.brushIntoView(); });
    canvas.addEventListener("blur", () => this.penUp());
  }

  get picture() { return this.view.picture; }

  hideBrush() {
    this.view.brush = null;
    this.view.draw();
  }

  setBrush(x, y) {
    this.view.brush = { x, y, size: this.act.size(), down: this.down };
    this.view.draw();
  }

  press(event) {
    if (!this.picture || (event.pointerType === "mouse" && event.button > 2)) return;
    event.preventDefault();
    this.view.canvas.focus({ preventScroll: true });
    this.view.canvas.setPointerCapture(event.pointerId);
    this.penUp();
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.pointers.size === 2) {
      if (this.mode === "stroke") this.act.dropStroke();
      this.mode = "pinch";
      this.hideBrush();
    } else if (this.pointers.size === 1) {
      if (event.button === 2 || event.button === 1 || this.act.tool() === "move") this.mode = "move";
      else if (this.view.nearDivider(event.clientX)) this.mode = "split";
      else {
        this.mode = "stroke";
        const [x, y] = this.view.toPicture(event.clientX, event.clientY);
        this.setBrush(x, y);
        this.act.beginStroke(x, y);
      }
    }
  }

  moved(event) {
    if (!this.picture) return;
    const before = this.pointers.get(event.pointerId);
    const at = [event.clientX, event.clientY];
    if (!before) {
      const near = this.view.nearDivider(at[0]);
      this.view.canvas.classList.toggle("split", near);
      if (!near && this.act.tool() !== "move" && !this.down) this.setBrush(...this.view.toPicture(...at));
      else if (!this.down) this.hideBrush();
      return;
    }
    if (this.mode === "pinch") this.pinch(event.pointerId, before, at);
    this.pointers.set(event.pointerId, at);
    const { ratio } = this.view;
    if (this.mode === "move") this.view.move((at[0] - before[0]) * ratio, (at[1] - before[1]) * ratio);
    else if (this.mode === "split") this.act.setSplit(this.view.splitAt(at[0]));
    else if (this.mode === "stroke") {
      const passed = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const one of passed.length ? passed : [event]) this.act.extendStroke(...this.view.toPicture(one.clientX, one.clientY));
      this.setBrush(...this.view.toPicture(...at));
    }
  }

  pinch(id, before, at) {
    const other = [...this.pointers].find(([key]) => key !== id)?.[1];
    if (!other) return;
    const { ratio } = this.view;
    const middle = (a, b) => this.view.toCanvas((a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
    const apart = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
    this.view.move(((at[0] - before[0]) * ratio) / 2, ((at[1] - before[1]) * ratio) / 2);
    this.view.zoom(apart(at, other) / apart(before, other), ...middle(at, other));
  }

  lift(event, cancelled = false) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.mode === "stroke") {
      if (cancelled) this.act.dropStroke();
      else this.act.endStroke();
    }
    if (this.mode !== "pinch" || !this.pointers.size) this.mode = "";
    if (event.pointerType === "touch") this.hideBrush();
  }

  wheel(event) {
    if (!this.picture) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? event.deltaY * 33 : event.deltaY;
    this.view.zoom(Math.exp(-Math.max(-300, Math.min(300, lines)) / 400), ...this.view.toCanvas(event.clientX, event.clientY));
    if (!this.down && this.act.tool() !== "move") this.setBrush(...this.view.toPicture(event.clientX, event.clientY));
  }

  // ---- keys

  brushIntoView() {
    if (!this.picture || this.view.brush || this.act.tool() === "move") return;
    const { canvas, picture } = this.view;
    this.setBrush(picture.left + canvas.width / 2 / picture.scale, picture.top + canvas.height / 2 / picture.scale);
  }

  penUp() {
    if (!this.down) return;
    this.down = false;
    if (this.view.brush) this.view.brush.down = false;
    this.act.endStroke();
    this.view.draw();
  }

  arrow(x, y, fine) {
    const { picture, canvas, ratio } = this.view;
    if (this.act.tool() === "move") {
      const step = (fine ? 10 : 60) * ratio;
      this.view.move(-x * step, -y * step);
      return;
    }
    this.brushIntoView();
    const step = fine ? 1 : Math.max(1, Math.round((12 * ratio) / picture.scale));
    const at = [
      Math.min(picture.width, Math.max(0, this.view.brush.x + x * step)),
      Math.min(picture.height, Math.max(0, this.view.brush.y + y * step)),
    ];
    if (this.down) this.act.extendStroke(...at);
    this.setBrush(...at);
    const [onX, onY] = [(at[0] - picture.left) * picture.scale, (at[1] - picture.top) * picture.scale];
    if (onX < 0 || onY < 0 || onX > canvas.width || onY > canvas.height) this.view.reveal(...at);
  }

  space() {
    if (this.act.tool() === "move") return;
    this.brushIntoView();
    if (this.down) {
      this.penUp();
      this.act.say("Brush up.");
      return;
    }
    this.down = true;
    this.act.beginStroke(this.view.brush.x, this.view.brush.y);
    this.setBrush(this.view.brush.x, this.view.brush.y);
    this.act.say("Brush down: arrows draw, Space lifts it.");
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.picture) return;
    const keys = {
      ArrowLeft: () => this.arrow(-1, 0, event.shiftKey),
      ArrowRight: () => this.arrow(1, 0, event.shiftKey),
      ArrowUp: () => this.arrow(0, -1, event.shiftKey),
      ArrowDown: () => this.arrow(0, 1, event.shiftKey),
      " ": () => this.space(),
      Escape: () => {
        if (!this.down) return this.act.stop();
        this.down = false;
        this.act.dropStroke();
        return this.setBrush(this.view.brush.x, this.view.brush.y);
      },
    };
    const command = keys[event.key] || this.act.keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!command) return;
    event.preventDefault();
    if (!keys[event.key]) this.penUp();
    command();
  }
}
