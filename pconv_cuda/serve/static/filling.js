// Filling the hole of a picture by the server, and its place in the queue meanwhile.

import { about, ask, freshKey, preview, Refused, watchQueue } from "./api.js";
import { maskAsPng } from "./png.js";

function fileName(answer) { // the server keeps the name, and its ending fits the format
  const header = answer.headers.get("Content-Disposition");
  const coded = /filename\*=utf-8''([^;]+)/i.exec(header);
  return coded ? decodeURIComponent(coded[1]) : /filename="([^"]*)"/.exec(header)[1];
}

// Fills picture.mask's hole; tell() is called whenever there is something new to show. picture.job is there meanwhile.
export async function fillHole(picture, weights, tell) {
  if (!picture.mask.bytes.includes(1)) throw new Refused("There is no hole yet. Paint over what is to be filled, or load a mask.");
  const job = { key: freshKey(), stop: new AbortController(), done: 0, total: 0, text: "Sending …" };
  const { version } = picture.mask;
  picture.job = job;
  const unwatch = watchQueue(job.key, ({ place, done, total }) => {
    Object.assign(job, { done, total });
    job.text = place ? `Waiting: ${place} before this one.` : total ? `Filling: piece ${done} of ${total}.` : "Filling …";
    tell();
  });
  tell();
  const started = performance.now();
  try {
    const mask = new File([await maskAsPng(picture.mask)], "mask.png");
    const parts = { picture: picture.file, mask, weights, id: job.key };
    const answer = await ask("inpaint", { parts, signal: job.stop.signal });
    const { notes } = about(answer);
    const result = await answer.blob();
    const resultName = fileName(answer);
    const { bitmap } = await preview(new File([result], resultName));
    Object.assign(picture, { result, resultName, after: bitmap, filled: version, split: 0.5 });
    picture.notes = [`Filled in ${((performance.now() - started) / 1000).toFixed(1)} s.`, ...notes];
  } finally {
    unwatch();
    picture.job = null;
    tell();
  }
}
