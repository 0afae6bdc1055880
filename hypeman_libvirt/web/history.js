/** What happened, who did it, and small plots of it. */

import { html, useEffect, useState } from "./vendor/preact-htm.js";
import { isOnVfio, makeCards } from "./host.js";
import { clock } from "./parts.js";

/** @import { Api } from "./api.js" */
/** @import { DeviceEvent, History, Host, Minute, PastChange } from "./types.js" */

/**
 * @typedef {{at: number, what: string, name: string, address: string, by: string, note: string}} Line
 */

/** Changes and the events that they caused lie so close together, in milliseconds. */
const SAME = 10000;
const CAUSES = /** @type {Record<string, string[]>} */ ({
  register: ["registered"],
  unregister: ["unregistered", "unbound"],
  bind: ["bound"],
  unbind: ["unbound"],
  attach: ["attached", "bound"],
  detach: ["detached", "unbound"],
  move: ["moved"],
});

/**
 * One list of what the service did and for whom, and of what others did, the newest first.
 * @param {History} history
 */
export function lines({ changes, events }) {
  const ours = changes.map((change) => ({
    at: Date.parse(change.at),
    what: change.forced ? `${change.action}, forced` : change.action,
    name: change.name,
    address: change.pci_address,
    by: change.by || "anybody: auth is off",
    note: change.attached_domain ? `with ${change.attached_domain}` : `driver ${change.current_driver || "none"}`,
  }));
  const theirs = events.filter((event) => !changes.some((change) => caused(change, event))).map((event) => ({
    at: Date.parse(event.at),
    what: event.type,
    name: event.name || "",
    address: event.pci_address,
    by: "not through this service",
    note: `driver ${event.current_driver || "none"}`,
  }));
  return [...ours, ...theirs].sort((a, b) => b.at - a.at);
}

/**
 * @param {PastChange} change
 * @param {DeviceEvent} event
 */
function caused(change, event) {
  const near = Math.abs(Date.parse(change.at) - Date.parse(event.at)) < SAME;
  const same = change.pci_address === event.pci_address || (event.type !== "registered" && ["bind", "unbind", "attach", "detach"].includes(change.action));
  return near && same && (CAUSES[change.action] || []).includes(event.type);
}

/**
 * How many functions were on vfio, from now back to the first event.
 * @param {number} now how many there are now
 * @param {DeviceEvent[]} events the oldest first
 * @returns {{at: number, count: number}[]} each from its moment on
 */
export function onVfioOverTime(now, events) {
  const moves = events.filter((event) => event.type === "bound" || event.type === "unbound");
  let count = now;
  const points = [];
  for (const event of [...moves].reverse()) {
    points.push({ at: Date.parse(event.at), count });
    count -= event.type === "bound" ? 1 : -1;
  }
  return [{ at: 0, count }, ...points.reverse()];
}

/** @param {{api: Api, host: Host, version: number, dashboard: string | null, onSelect: (key: string) => void}} props */
export function HistoryView({ api, host, version, dashboard, onSelect }) {
  const [history, setHistory] = useState(/** @type {History | null} */ (null));
  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(() => api.ask("devices/history", { signal: stop.signal }).then(setHistory, () => {}), history ? 300 : 0);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [version]);
  if (!history) return html`<p>asking …</p>`;
  const all = lines(history);
  const onVfio = [...makeCards(host).values()].filter((card) => card.fn && isOnVfio(card)).length;
  return html`<div class="history">
    <div class="plots">
      <${VfioPlot} points=${onVfioOverTime(onVfio, history.events)} />
      <${OperationsPlot} minutes=${history.operations} />
    </div>
    ${dashboard && html`<p><a href=${dashboard} rel="noreferrer">Open the dashboard</a></p>`}
    <h2>What happened</h2>
    ${all.length === 0
      ? html`<p class="nothing">Nothing since the service was started, or nobody followed the events.</p>`
      : html`<div class="scroll" tabindex="0" role="region" aria-label="What happened"><table>
          <thead><tr><th scope="col">Time</th><th scope="col">What</th><th scope="col">Device</th><th scope="col">Who</th><th scope="col">After it</th></tr></thead>
          <tbody>
            ${all.slice(0, 200).map((line) => html`<tr>
              <td><time datetime=${new Date(line.at).toISOString()}>${clock(line.at)}</time></td>
              <td>${line.what}</td>
              <td><button type="button" class="link" onClick=${() => onSelect(line.address)}><bdi>${line.name || line.address}</bdi></button></td>
              <td><bdi>${line.by}</bdi></td>
              <td><bdi>${line.note}</bdi></td>
            </tr>`)}
          </tbody>
        </table></div>`}
  </div>`;
}

/** @param {{points: {at: number, count: number}[]}} props */
function VfioPlot({ points }) {
  const end = Date.now();
  const begin = points.length > 1 ? Math.min(points[1].at, end - 60000) : end - 60000;
  const most = Math.max(1, ...points.map((each) => each.count));
  /** @param {number} at */
  const x = (at) => (200 * (Math.max(at, begin) - begin)) / (end - begin);
  /** @param {number} count */
  const y = (count) => 46 - (40 * count) / most;
  const path = points.map(({ at, count }, index) => `${index ? `H${x(at)}V` : `M0 `}${y(count)}`).join("");
  const now = points[points.length - 1].count;
  const said = `Since ${clock(begin)}: ${points.map((each) => each.count).slice(-20).join(", ")}`;
  return html`<${Plot} caption=${`Functions on vfio: ${now} now, ${most} at most`} said=${said} from=${clock(begin)}>
    <path class="line" d=${`${path}H200`} />
  <//>`;
}

/** @param {{minutes: Minute[]}} props */
function OperationsPlot({ minutes }) {
  const slots = 30;
  const end = Math.floor(Date.now() / 60000);
  const bars = Array.from({ length: slots }, (_, index) => {
    const of = minutes.filter((each) => Math.floor(Date.parse(each.minute) / 60000) === end - slots + 1 + index);
    return { good: sum(of, "successes"), bad: sum(of, "failures") };
  });
  const most = Math.max(1, ...bars.map((bar) => bar.good + bar.bad));
  const [good, bad] = [sum(minutes, "successes"), sum(minutes, "failures")];
  const width = 200 / slots;
  /** @param {string} kind @param {number} index @param {number} from @param {number} count */
  const bar = (kind, index, from, count) =>
    html`<rect class=${kind} x=${index * width + 1} width=${width - 2} y=${48 - (40 * (from + count)) / most} height=${(40 * count) / most} />`;
  const caption = `Bind, unbind, attach, detach: ${good} succeeded, ${bad} failed or were refused`;
  return html`<${Plot} caption=${caption} said=${caption} from=${`${slots} min ago`}>
    ${bars.map((of, index) => [bar("good", index, 0, of.good), bar("bad", index, of.good, of.bad)])}
  <//>`;
}

/** @param {{caption: string, said: string, from: string, children?: unknown}} props */
function Plot({ caption, said, from, children }) {
  return html`<figure>
    <figcaption>${caption}</figcaption>
    <svg viewBox="0 0 200 50" preserveAspectRatio="none" role="img" aria-label=${said}>
      <path class="axis" d="M0 48H200" />
      ${children}
    </svg>
    <p class="range"><span>${from}</span><span>now</span></p>
  </figure>`;
}

/** @param {Minute[]} minutes @param {"successes" | "failures"} key */
function sum(minutes, key) {
  return minutes.reduce((total, each) => total + each[key], 0);
}
