/** Small parts that every view is made of. */

import { html, useEffect, useState } from "./vendor/preact-htm.js";

/** @type {Record<string, string>} paths on a square of 16 */
const SHAPES = {
  viable: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1Zm-1.2 10L3.7 7.9l1.2-1.2 1.9 1.9 4.3-4.3 1.2 1.2Z",
  needs_bind: "M8 1.5 15.5 15H.5ZM7.2 6v4.5h1.6V6Zm0 5.7v1.6h1.6v-1.6Z",
  never: "M5 1h6l4 4v6l-4 4H5l-4-4V5Zm-.5 6v2h7V7Z",
  ok: "M6.2 12.5 2 8.3l1.4-1.4 2.8 2.8L12.6 3.3 14 4.7Z",
  domain: "M1 2h14v9H9v1.5h3V14H4v-1.5h3V11H1Zm1.5 1.5v6h11v-6Z",
  host: "M2 2h12v5H2Zm0 7h12v5H2Zm9.5-5.5v2H13v-2Zm0 7v2H13v-2Z",
};

SHAPES.warning = SHAPES.needs_bind;
SHAPES.error = SHAPES.never;

/** @param {{name: string}} props */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
    <path fill="currentColor" fill-rule="evenodd" d=${SHAPES[name]} />
  </svg>`;
}

/**
 * A command, and a button that copies it.
 * @param {{command: string}} props
 */
export function Command({ command }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(command).catch(() => {});
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return html`<div class="command">
    <code>${command}</code>
    <button type="button" class="small" onClick=${copy} aria-label=${`Copy: ${command}`}>
      ${copied ? "Copied" : "Copy"}
    </button>
  </div>`;
}

/** @param {{label: string, name?: string, value: string, options: [string, string][], onChoose: (value: string) => void}} props */
export function Select({ label, name, value, options, onChoose }) {
  return html`<label>
    <span>${label}</span>
    <select name=${name} value=${value} onChange=${typed(onChoose)}>
      ${options.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === value}>${text}</option>`)}
    </select>
  </label>`;
}

/**
 * The time that has passed, said anew each second.
 * @param {{since: number}} props milliseconds since 1970
 */
export function Elapsed({ since }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return html`<span class="elapsed">${duration((now - since) / 1000)}</span>`;
}

/** @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** @param {string | number | Date} time */
export function clock(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString("en-GB") : date.toLocaleString("en-GB");
}

/**
 * Hand on what was typed or chosen.
 * @param {(value: string) => void} then
 */
export const typed = (then) => (/** @type {{target: HTMLInputElement}} */ event) => then(event.target.value);

/**
 * Hand on whether a box is ticked.
 * @param {(ticked: boolean) => void} then
 */
export const ticked = (then) => (/** @type {{target: HTMLInputElement}} */ event) => then(event.target.checked);
