// Elements by their id, and what the page says: the line below the picture, and errors.

import { Refused } from "./api.js";

export const $ = (id) => document.getElementById(id);

export function say(text) { $("status").textContent = text; }

function complain(error) {
  if (error.name === "AbortError") return;
  const own = error instanceof Refused;
  if (!own) console.error(error);
  $("error-text").textContent = own ? error.message : `The page failed: ${error.message}. Reload it, or try another browser.`;
  $("error").hidden = false;
  $("error").scrollIntoView({ block: "nearest" }); // on a phone the button that was pressed may be far below
}

// A function that shows its errors in the page.
export function guarded(work) {
  return async (...given) => {
    $("error").hidden = true;
    try { await work(...given); } catch (error) { complain(error); }
  };
}
