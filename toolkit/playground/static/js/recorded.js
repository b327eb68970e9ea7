// In a file of `toolkit explain`, this takes the place of api.js: it answers from what was recorded.
import { t } from "./i18n.js";

const { answers, fields } = JSON.parse(document.getElementById("data").textContent);

/** An error as those of the server. */
class ServerError extends Error {
  constructor({ what, where, fix }) {
    super(what);
    Object.assign(this, { where, fix });
  }
}

export async function get(path) {
  return found(path, {});
}

export async function post(path, body) {
  return found(path, body);
}

export async function stream(path, body, onEvent) {
  for (const event of found(path, body)) onEvent(event);
}

function found(path, body) {
  const answer = fields[path] && answers[JSON.stringify([path, ...fields[path].map(name => body[name] ?? null)])];
  if (answer === undefined) throw new ServerError({ what: t("explain.absent"), fix: t("explain.server") });
  return answer;
}
