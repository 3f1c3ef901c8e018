/** Numbers and names as people read them. */

const MINUS = "\u2212";

/** Three significant digits, a true minus sign, and a word for what is not known. */
export function number(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "not known";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 1e5 || size < 1e-4
      ? size
          .toExponential(digits - 1)
          .replace("-", MINUS)
          .replace("+", "")
      : trimmed(size, digits);
  return (value < 0 ? MINUS : "") + text;
}

function trimmed(size: number, digits: number): string {
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return size.toFixed(Math.min(decimals, 6));
}

/** A tick of an axis: no more digits than it needs. */
export function tickText(value: number): string {
  const text = String(Number(Math.abs(value).toPrecision(10)));
  return value < 0 ? MINUS + text : text;
}

/** With a plus where it is positive. */
export function signed(value: number | null | undefined, digits = 3): string {
  const text = number(value, digits);
  return typeof value === "number" && Number.isFinite(value) && value > 0 ? `+${text}` : text;
}

export function interval(low: number | null | undefined, high: number | null | undefined): string {
  if (low === null || low === undefined || high === null || high === undefined) return "";
  return `[${signed(low)}, ${signed(high)}]`;
}

export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "not known";
  return `${number(value * 100, 2)} %`.replace("100.0", "100");
}

export function probability(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "not known";
  if (value < 0.001) return "< 0.001";
  return value.toFixed(3);
}

/** The first letter large, as a sentence begins. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A measure of any kind: whole numbers stay whole. */
export function measure(value: number | string | boolean): string {
  if (typeof value !== "number") return typeof value === "boolean" ? (value ? "yes" : "no") : value;
  return Number.isInteger(value) ? value.toLocaleString("en-GB").replace("-", MINUS) : number(value);
}

export function count(n: number, word: string, many = `${word}s`): string {
  return `${n.toLocaleString("en-GB")} ${n === 1 ? word : many}`;
}

/** `attribution_patching` as words. */
export function words(name: string): string {
  return name.replace(/_/g, " ");
}

/** White space in a token made visible; an empty token gets a sign of its own. */
export function tokenText(token: string): string {
  if (token === "") return "\u2205";
  return token
    .replace(/\n/g, "\u21b5")
    .replace(/\t/g, "\u21e5")
    .replace(/ /g, "\u00b7")
    .replace(/[\u0000-\u001f\u200b-\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

/** One row of a table of comma-separated values; a cell that a spreadsheet would run as a formula gets a leading apostrophe. */
export function csv(rows: (string | number | null | undefined | boolean)[][]): string {
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function cell(value: string | number | null | undefined | boolean): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  let text = String(value);
  if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}
