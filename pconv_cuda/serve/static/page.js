// The page: opened pictures, tools, filling, saving.

import { about, ask, download, preview, Refused } from "./api.js";
import { $, guarded, say } from "./dom.js";
import { fillHole } from "./filling.js";
import { Input } from "./input.js";
import { Mask } from "./mask.js";
import { maskAsPng } from "./png.js";
import { View } from "./view.js";

const view = new View($("stage"));
const pictures = [];
let current = null;
let limits = null;

// The state of the picture, and what `more` says once.
function describe(more = "") {
  if (!current) return say("No picture is open.");
  const { name, width, height, mask, before, notes, job } = current;
  const share = mask.count() / (width * height);
  const percent = share === 0 ? "no hole yet" : `hole ${share < 0.001 ? "less than 0.1" : (share * 100).toFixed(1)} %`;
  const shrunk = before.width < width ? `; shown at ${before.width} × ${before.height}, painted at full size` : "";
  const old = current.result && current.filled !== mask.version ? "; the hole has changed since it was filled" : "";
  const said = [`${name}: ${width} × ${height} px${shrunk}, ${percent}${old}.`, ...notes];
  if (share === 0 && !current.result) said.push("Paint over what is to be filled, or load a mask.");
  if (more) said.push(more);
  if (job) said.push(job.text);
  return say(said.join(" "));
}

// Whether a button does anything. One that does nothing now keeps the focus, which `disabled` would take away.
function allow(id, allowed) { $(id).ariaDisabled = String(!allowed); }

function refresh() {
  const [open, job] = [Boolean(current), current?.job];
  const { mask } = current || {};
  for (const id of ["clear", "invert", "load-mask", "save-mask", "alpha-mask", "zoom-in", "zoom-out", "fit", "actual"]) allow(id, open);
  $("size").disabled = !open;
  allow("undo", mask?.done.length);
  allow("redo", mask?.undone.length);
  allow("fill", open && !job);
  allow("save", current?.result);
  if (!job && document.activeElement === $("stop")) $("fill").focus();
  $("running").hidden = !job;
  if (job) {
    if (job.total) [$("progress").max, $("progress").value] = [job.total, job.done];
    else $("progress").removeAttribute("value");
  }
  $("compare").hidden = !current?.after;
  if (current) $("split").value = Math.round(current.split * 100);
  $("empty").hidden = open;
  $("stage").classList.toggle("idle", !open);
  $("stage").classList.toggle("move", open && tool() === "move");
  $("pictures").replaceChildren(...pictures.map((one) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${one.name}${one.job ? " …" : one.result ? " ✓" : ""}`;
    if (one === current) button.setAttribute("aria-current", "true");
    button.onclick = () => choose(one);
    return button;
  }));
}

function changed() {
  describe();
  refresh();
  view.draw();
}

// ---- pictures

function choose(picture) {
  current = picture;
  input.hideBrush();
  view.show(picture);
  setSize(picture ? picture.size : 1);
  changed();
}

async function inMemory(file, name) { // whatever becomes of it on the disk
  try {
    return new File([await file.arrayBuffer()], name);
  } catch {
    throw new Refused(`${name} cannot be read by the browser: a folder, or a file that is gone or locked. Open it again.`);
  }
}

const openAll = guarded(async (files) => {
  for (const given of files) {
    const name = given.name || "pasted.png";
    if (limits && given.size > limits.max_upload_mb * 1e6) {
      throw new Refused(`${name} is larger than the ${limits.max_upload_mb} MB that this server takes. `
        + "Make it smaller, or ask whoever starts the server to allow more.");
    }
    say(`Opening ${name} …`);
    try {
      const file = await inMemory(given, name);
      const { about: found, bitmap } = await preview(file);
      const mask = new Mask(found.width, found.height);
      const size = Math.max(1, Math.round(Math.min(found.width, found.height) / 25));
      pictures.push({ file, name, mask, size, before: bitmap, after: null, result: null, job: null, split: 0.5, scale: 0, ...found });
      choose(pictures[pictures.length - 1]);
    } catch (error) {
      describe();
      throw error;
    }
  }
});

// ---- the hole

function tool() { return document.querySelector("input[name=tool]:checked").value; }

function pick(name) {
  document.querySelector(`input[name=tool][value=${name}]`).checked = true;
  refresh();
}

// the slider's 0 to 100 are 1 px to half of the picture, in equal ratios
function largest() { return current ? Math.max(2, Math.min(current.width, current.height) / 2) : 100; }

function setSize(size) {
  const chosen = Math.round(Math.min(largest(), Math.max(1, size)));
  if (current) current.size = chosen;
  $("size").value = Math.round((100 * Math.log(chosen)) / Math.log(largest()));
  $("size-shown").textContent = `${chosen} px`;
  $("size").setAttribute("aria-valuetext", `${chosen} pixels`);
  if (view.brush) {
    view.brush.size = chosen;
    view.draw();
  }
}

function step(kind, more = {}) {
  if (!current) return;
  current.mask.add({ kind, ...more });
  changed();
}

const rule = () => ({
  threshold: $("threshold").value,
  dilate: $("dilate").value,
  "mask-color": $("mask-color").value.trim(),
  "invert-mask": $("invert-mask").checked ? "true" : "",
  "resize-mask": $("resize-mask").checked ? "true" : "",
});

const loadMask = guarded(async (given) => {
  const picture = current;
  if (!picture || !given) return;
  const answer = await ask("mask", { parts: { picture: picture.file, mask: given, ...rule() } }).catch((error) => {
    $("mask-rule").open = true; // errors name its options
    throw error;
  });
  const bits = new Uint8Array(await answer.arrayBuffer());
  picture.mask.add({ kind: "load", bits });
  changed();
  describe(`Mask read: ${about(answer).notes.join("; ")}.`);
});

// ---- filling and saving

const fill = guarded(async () => {
  const picture = current;
  if (!picture || picture.job) return;
  await fillHole(picture, $("weights").value, changed);
  if (picture === current) $("frame").scrollIntoView({ block: "nearest" }); // on a phone it may be above the button
});

function stop() { current?.job?.stop.abort(); }

function save() {
  if (current?.result) download(current.result, current.resultName);
}

const saveMask = guarded(async () => {
  const stem = current.name.replace(/\.[^.]*$/, "");
  download(await maskAsPng(current.mask), `${stem}_mask.png`);
});

function setSplit(share) {
  if (!current?.after) return;
  current.split = share;
  $("split").value = Math.round(share * 100);
  view.draw();
}

// ---- wiring

function undo() { if (input.mode !== "stroke" && current?.mask.undo()) changed(); }
function redo() { if (input.mode !== "stroke" && current?.mask.redo()) changed(); }
function turn(by) {
  if (pictures.length) choose(pictures[(pictures.indexOf(current) + by + pictures.length) % pictures.length]);
}
function zoom(factor) { if (current) view.zoom(factor); }
function actual() { if (current) view.zoom(1 / current.scale); }
function fit() { if (current) view.fit(); }
function toggleHole() {
  $("show-mask").checked = view.showHole = !view.showHole;
  view.draw();
}

const input = new Input(view, {
  say,
  tool,
  stop,
  setSplit,
  size: () => current.size,
  beginStroke: (x, y) => {
    current.mask.begin(tool() === "erase" ? 0 : 1, current.size, x, y);
    view.draw();
  },
  extendStroke: (x, y) => {
    current.mask.extend(x, y);
    view.draw();
  },
  endStroke: changed,
  dropStroke: () => {
    current.mask.drop();
    changed();
  },
  keys: {
    p: () => pick("paint"), e: () => pick("erase"), v: () => pick("move"),
    "[": () => setSize(Math.min(current.size - 1, current.size / 1.25)), "]": () => setSize(Math.max(current.size + 1, current.size * 1.25)),
    "-": () => zoom(1 / 1.4), "+": () => zoom(1.4), "=": () => zoom(1.4), 0: fit, 1: actual,
    Delete: () => step("clear"), Backspace: () => step("clear"), i: () => step("invert"), h: toggleHole,
    Enter: fill, b: () => setSplit(1), a: () => setSplit(0), ",": () => turn(-1), ".": () => turn(1),
  },
});

const clicks = {
  open: () => $("file").click(), undo, redo, clear: () => step("clear"), invert: () => step("invert"), fill, stop, save,
  "load-mask": () => $("mask-file").click(), "save-mask": saveMask, "alpha-mask": () => loadMask("alpha"),
  "zoom-in": () => zoom(1.4), "zoom-out": () => zoom(1 / 1.4), fit, actual, "error-close": () => { $("error").hidden = true; },
};
for (const [id, work] of Object.entries(clicks)) $(id).onclick = () => { if ($(id).ariaDisabled !== "true") work(); };
for (const [id, take] of [["file", (files) => openAll([...files])], ["mask-file", (files) => loadMask(files[0])]]) {
  $(id).onchange = async () => {
    await take($(id).files);
    $(id).value = ""; // the same file can be chosen again
  };
}
$("stage").onclick = () => { if (!current) clicks.open(); };
$("tools").onsubmit = (event) => event.preventDefault();
$("size").oninput = () => setSize(largest() ** ($("size").value / 100));
$("split").oninput = () => setSplit($("split").value / 100);
$("show-mask").onchange = () => { view.showHole = $("show-mask").checked; view.draw(); };
for (const one of document.querySelectorAll("input[name=tool]")) one.onchange = refresh;

document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if (!(event.ctrlKey || event.metaKey) || event.altKey || $("token-dialog").open) return;
  if (key === "z" && /^(text|number|password)$/.test(event.target.type || "")) return; // its own undo
  const work = { z: event.shiftKey ? redo : undo, y: redo, o: clicks.open, s: save }[key];
  if (!work) return;
  event.preventDefault();
  input.penUp();
  work();
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) openAll([...event.clipboardData.files]);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("frame").classList.toggle("drop", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) openAll([...event.dataTransfer.files]);
  });
}

refresh();
setSize(1);
guarded(async () => {
  limits = await (await ask("about")).json();
  $("weights").replaceChildren(...limits.weights.map(({ name }) => new Option(name, name)));
  const tell = () => { $("weights-about").textContent = limits.weights.find(({ name }) => name === $("weights").value)?.about || ""; };
  $("weights").onchange = tell;
  tell();
})();
