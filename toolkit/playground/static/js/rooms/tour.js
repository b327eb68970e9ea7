import { h, show } from "../dom.js";
import { t } from "../i18n.js";

export function mount(root) {
  show(root, h("h1", {}, t("room.tour")));
}
