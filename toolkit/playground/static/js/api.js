// The JSON interface of the server (docs/PLAYGROUND.md).

/** An error of the server: `what`, `where` and `fix` as in the terminal. */
class ServerError extends Error {
  constructor({ what, where, fix }, status) {
    super(what);
    Object.assign(this, { where, fix, status });
  }
}

export async function get(path, { signal } = {}) {
  return answered(await fetch(path, { signal }));
}

export async function post(path, body, { signal } = {}) {
  return answered(await fetch(path, request(body, signal)));
}

/** Call `onEvent` with each event of a stream. Aborting `signal` stops the model. */
export async function stream(path, body, onEvent, { signal } = {}) {
  const response = await fetch(path, request(body, signal));
  if (!response.ok) await answered(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.event === "error") throw new ServerError(event.error, 422);
      onEvent(event);
    }
  }
}

function request(body, signal) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal };
}

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  throw new ServerError(body.error ?? { what: `the server answered ${response.status}` }, response.status);
}
