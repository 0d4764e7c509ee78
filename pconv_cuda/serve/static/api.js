// Requests to the server, and its errors in words.

const KEY = "pconv-token";
let token = sessionStorage.getItem(KEY) || "";
let asking = null;

export class Refused extends Error {}

function askForToken() { // one dialog, however many requests wait for it
  asking ||= new Promise((resolve) => {
    const dialog = document.getElementById("token-dialog");
    const field = document.getElementById("token");
    const use = () => {
      if (!field.value.trim()) return;
      token = field.value.trim();
      sessionStorage.setItem(KEY, token);
      field.value = "";
      asking = null;
      dialog.close();
      resolve();
    };
    document.getElementById("token-use").onclick = use;
    field.onkeydown = (event) => { if (event.key === "Enter") use(); };
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
    field.focus();
  });
  return asking;
}

export async function ask(path, { parts = null, signal = null } = {}) {
  for (;;) {
    const options = { signal, headers: token ? { Authorization: `Bearer ${token}` } : {}, cache: "no-store" };
    if (parts) {
      options.method = "POST";
      options.body = new FormData();
      for (const [name, value] of Object.entries(parts)) if (value !== "" && value !== null) options.body.append(name, value);
    }
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The server does not answer. See whether pconv serve still runs on its machine, and try again.");
    }
    if (answer.status === 401) {
      await askForToken();
      continue;
    }
    if (!answer.ok) {
      const text = await answer.text();
      let words = "";
      try { words = JSON.parse(text).error; } catch { /* not the server's own words */ }
      throw new Refused(words || `The server answers ${answer.status} ${answer.statusText}: ${text.slice(0, 200)}`);
    }
    return answer;
  }
}

export function about(answer) {
  return JSON.parse(answer.headers.get("X-Pconv"));
}

export async function preview(file) {
  const answer = await ask("preview", { parts: { picture: file } });
  // shown as it is: the server has turned it upright, and the browser converts its colours
  return { about: about(answer), bitmap: await createImageBitmap(await answer.blob(), { premultiplyAlpha: "default" }) };
}

export function freshKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Calls tell({place, done, total}) about the request's place in the queue until stop() is called.
export function watchQueue(key, tell) {
  let running = true;
  const look = async () => {
    if (!running) return;
    try {
      const state = await (await ask(`queue?id=${key}`)).json();
      if (running && "place" in state) tell(state);
    } catch { /* the request itself reports it */ }
    if (running) setTimeout(look, 500);
  };
  setTimeout(look, 250);
  return () => { running = false; };
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
