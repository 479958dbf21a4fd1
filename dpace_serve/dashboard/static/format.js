// Numbers as they are read. What is undefined is null in the server's JSON and a dash here.

export const NOTHING = "\u2013";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

const formats = new Map();

function fixed(value, digits) {
  if (!formats.has(digits)) {
    const bounds = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    formats.set(digits, new Intl.NumberFormat("en-US", bounds));
  }
  return formats.get(digits).format(value);
}

export const number = (value, digits) => (isNumber(value) ? fixed(value, digits) : NOTHING);

export const count = (value) => number(value, 0);

export const tau = (value) => number(value, 2);

export const percent = (value, digits = 1) =>
  isNumber(value) ? `${fixed(100 * value, digits)}\u00a0%` : NOTHING;

/** A change, with its sign: +4.3 %. */
export function change(value, digits = 1) {
  if (!isNumber(value)) return NOTHING;
  const sign = value > 0 ? "+" : value < 0 ? "\u2212" : "";
  return `${sign}${percent(Math.abs(value), digits)}`;
}

/** Both bounds in brackets; nothing where one is undefined. */
export const interval = (low, high, format) =>
  isNumber(low) && isNumber(high) ? `[${format(low)}, ${format(high)}]` : "";

/** Local time of day of seconds since 1970. */
export const clock = (seconds) =>
  isNumber(seconds) ? new Date(1000 * seconds).toLocaleTimeString("en-GB") : NOTHING;

/** The local date of these seconds; nothing where it is today's. */
export function dateUnlessToday(seconds) {
  if (!isNumber(seconds)) return "";
  const then = new Date(1000 * seconds);
  if (then.toDateString() === new Date().toDateString()) return "";
  return then.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}

/** "1 request", "1,200 requests". */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** The first letters of a revision, which is a hash. */
export const short = (revision) => String(revision ?? "").slice(0, 8);
