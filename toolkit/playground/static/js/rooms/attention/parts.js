// What the views of the room share: pictures of weights, and choosing with the arrow keys.
import { h, visible as withSpaces } from "../../dom.js";
import { t } from "../../i18n.js";

/** How dark a weight is: small weights stay visible. */
export const shade = weight => Math.max(0, Math.min(1, weight)) ** 0.6;

/** A token as it is shown; some have no text. */
export const visible = text => withSpaces(text) || "∅";

/** A canvas with one pixel a value in [0, 1], in the colour of the theme. */
export function picture(values, columns, { signal }) {
  const canvas = h("canvas", { width: columns, height: values.length / columns, "aria-hidden": "true" });
  const draw = () => {
    const color = getComputedStyle(document.documentElement).getPropertyValue("--blue").trim();
    const [red, green, blue] = [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
    const context = canvas.getContext("2d"), image = context.createImageData(columns, values.length / columns);
    values.forEach((value, place) => image.data.set([red, green, blue, 255 * shade(value)], 4 * place));
    context.putImageData(image, 0, 0);
  };
  draw();
  const theme = new MutationObserver(() => (canvas.isConnected ? draw() : theme.disconnect()));
  theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  signal.addEventListener("abort", () => theme.disconnect());
  return canvas;
}

/** Let the arrow keys move among buttons, of which the Tab key reaches one. */
export function roving(container, columns = 0) {
  const items = () => [...container.querySelectorAll("button")];
  const reach = item => items().forEach(other => { other.tabIndex = other === item ? 0 : -1; });
  container.addEventListener("keydown", event => {
    const all = items(), at = all.indexOf(document.activeElement);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -(columns || 1), ArrowDown: columns || 1, Home: -at, End: all.length - 1 - at }[event.key];
    if (at < 0 || step === undefined) return;
    event.preventDefault();
    all[at + step]?.focus();
  });
  container.addEventListener("focusin", event => { if (event.target.tagName === "BUTTON") reach(event.target); });
  reach(items().find(item => item.getAttribute("aria-pressed") === "true") ?? items()[0]);
  return container;
}

/** Say that only the beginning of a long text is shown. */
export function cutNote({ tokens, total }) {
  return total > tokens.length && h("p", { class: "note" }, t("attention.cut", { shown: tokens.length, total }));
}

export const headName = (layer, head) => t("attention.head", { layer: layer + 1, head: head + 1 });

/** A line while something is computed. */
export const waiting = () => h("p", { class: "note busy", role: "status" }, t("attention.waiting"));

/** How numbers came about, folded. */
export function how(...paragraphs) {
  return h("details", {}, h("summary", {}, t("attention.how")), paragraphs.map(text => h("p", { class: "note" }, text)));
}
