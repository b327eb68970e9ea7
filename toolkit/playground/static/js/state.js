// What a room shows is in the address (`#/next?model=tiny/sft&text=...`), so that a link carries it, and the back
// button and a reload lose nothing. What is too long for an address is kept in the storage of the browser.

/** Return {room, params} of the address. */
export function here() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { room: path || "chat", params: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

/** Return the address of a room. Empty values are left out. */
export function link(room, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${room}${query ? `?${query}` : ""}`;
}

/** Change the address without a new entry of the history, as while typing. */
export function replace(room, params) {
  history.replaceState(null, "", link(room, params));
}

const PREFIX = "playground.";

export function remember(key, value) {
  try {
    localStorage.setItem(PREFIX + key, JSON.stringify(value));
  } catch { /* a full or forbidden storage: the page works without it */ }
}

export function recall(key, otherwise = null) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}
