// The strings of the page: one file a language. `t("room.chat")`, `t("queue.place", {position: 3})`.

export const LANGUAGES = { en: "English", ja: "日本語" };
const tables = {};
let language = "en";

export const current = () => language;

/** Use a table of strings that is here already, instead of asking the server for it. */
export function provide(code, table) {
  tables[code] = table;
}

export async function useLanguage(code) {
  for (const needed of new Set(["en", code])) {
    tables[needed] ??= await (await fetch(`/i18n/${needed}.json`)).json();
  }
  language = code;
  document.documentElement.lang = code;
}

/** Return a string with its fields filled in; numbers are written as the language does. */
export function t(key, fields = {}) {
  const text = tables[language]?.[key] ?? tables.en?.[key];
  if (text === undefined) throw new Error(`no string ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = fields[name];
    return typeof value === "number" ? number(value) : String(value);
  });
}

export function number(value, digits = 3) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}

/** Return a number with exactly `digits` decimals, for columns of numbers. */
export function fixed(value, digits) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

export function percent(value, digits = 1) {
  return new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}
