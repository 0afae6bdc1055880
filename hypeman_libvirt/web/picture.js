/** The picture: sockets, root ports, IOMMU groups as boxes, and the functions inside. */

import { html } from "./vendor/preact-htm.js";
import { KINDS, domainOf, isOnVfio, kindOf, nameOf, sliceUse, troubles } from "./host.js";
import { Icon } from "./parts.js";

/** @import { Box, Card, Group, Picture, Port, Shown } from "./types.js" */

export const STATUS = /** @type {const} */ ({
  viable: "viable",
  needs_bind: "bind first",
  never: "never",
});

/** Ports begin closed above so many functions. */
export const DENSE = 150;

/** @param {{picture: Picture, shown: Shown}} props */
export function Picture({ picture, shown }) {
  const { sockets, lost } = picture;
  return html`<div class="picture" onKeyDown=${walk}>
    ${lost.length > 0 &&
    html`<section class="socket lost" aria-labelledby="lost">
      <h2 id="lost">Not where they were</h2>
      <ul class="cards">
        ${lost.map((card) => html`<${CardItem} key=${card.key} card=${card} shown=${shown} />`)}
      </ul>
    </section>`}
    ${sockets.map((socket) => html`<${SocketView} key=${socket.key} socket=${socket} shown=${shown} />`)}
    ${picture.shown === 0 && html`<p class="nothing">Nothing fits the filter.</p>`}
  </div>`;
}

/** @param {{socket: Picture["sockets"][0], shown: Shown}} props */
function SocketView({ socket, shown }) {
  const id = `socket-${socket.key}`;
  const count = socket.ports.reduce((sum, port) => sum + port.cards.length, 0);
  return html`<section class="socket" aria-labelledby=${id}>
    <h2 id=${id}>${socket.title} <span class="count">${count} functions</span></h2>
    <div class="ports">
      ${socket.ports.map((port) => html`<${PortView} key=${port.key} port=${port} shown=${shown} />`)}
    </div>
  </section>`;
}

/** @param {{port: Port, shown: Shown}} props */
function PortView({ port, shown }) {
  const open = shown.open.get(port.key) ?? !shown.dense;
  /** @param {{currentTarget: HTMLDetailsElement}} event */
  const toggle = ({ currentTarget }) => {
    if (currentTarget.open !== open) shown.onOpen(port.key, currentTarget.open);
  };
  const kinds = [...new Set(port.cards.map((card) => kindOf(card.fn)))];
  const bridge = port.bridge;
  return html`<details class="port" open=${open} onToggle=${toggle}>
    <summary>
      <span class="address">${port.key}</span>
      <span class="bridge">${bridge && !bridge.assignable ? bridge.device_name || "Bridge" : "Root bus"}</span>
      ${!open && html`<span class="count">${port.cards.length}: ${kinds.map((kind) => KINDS[kind]).join(", ")}</span>`}
    </summary>
    ${open &&
    html`<div class="boxes">
      ${port.boxes.map((box) => html`<${BoxView} key=${box.number} box=${box} shown=${shown} />`)}
    </div>`}
  </details>`;
}

/** @param {{box: Box, shown: Shown}} props */
function BoxView({ box, shown }) {
  const status = box.group ? box.group.status : "none";
  const cards = box.cards.map((card) => html`<${CardItem} key=${card.key} card=${card} shown=${shown} />`);
  return html`<div class=${`box ${status}`}>
    <p class="group">
      ${box.group
        ? html`<span>IOMMU group ${box.number}</span><${Status} group=${box.group} />`
        : html`<span>No IOMMU group</span>`}
    </p>
    ${box.elsewhere.length > 0 && html`<p class="note">also below ${box.elsewhere.join(", ")}</p>`}
    <ul class="cards">
      ${cards}
    </ul>
  </div>`;
}

/** @param {{group: Group}} props */
export function Status({ group }) {
  const text = group.status === "never" && group.reason?.startsWith("only bridges") ? "bridges" : STATUS[group.status];
  return html`<span class=${`status ${group.status}`} title=${group.reason || "a guest could have it now"}>
    <${Icon} name=${group.status} />${text}
  </span>`;
}

/** @param {{card: Card, shown: Shown}} props */
function CardItem({ card, shown }) {
  const kind = kindOf(card.fn);
  const mark = shown.marks.get(card.key);
  const use = sliceUse(card);
  const open = shown.open.get(`slices ${card.key}`) ?? (card.slices.length <= 8 && !shown.dense);
  const toggle = () => shown.onOpen(`slices ${card.key}`, !open);
  return html`<li class=${`card ${kind} ${mark ? "marked" : ""}`}>
    <${Pick} card=${card} shown=${shown}>
      <span class="head">
        <span class="kind">${KINDS[kind]}</span>
        <bdi class="name">${nameOf(card)}</bdi>
      </span>
      <${Facts} card=${card} />
      ${mark && html`<span class="mark">changed: <bdi>${mark.text}</bdi></span>`}
    <//>
    ${use && html`<${SliceBar} use=${use} />`}
    ${card.slices.length > 0 &&
    html`<div class="slices">
      <button type="button" class="small plain" aria-expanded=${open} onClick=${toggle}>
        ${card.slices.length} ${card.slices.length === 1 ? "slice" : "slices"}
      </button>
      ${open &&
      html`<ul>
        ${card.slices.map((slice) => html`<${SliceItem} key=${slice.key} card=${slice} shown=${shown} />`)}
      </ul>`}
    </div>`}
  </li>`;
}

/** @param {{card: Card, shown: Shown}} props */
function SliceItem({ card, shown }) {
  const mark = shown.marks.get(card.key);
  return html`<li class=${`slice ${mark ? "marked" : ""}`}>
    <${Pick} card=${card} shown=${shown}>
      <${Facts} card=${card}>
        <span class="kind">${isVgpu(card) ? "vGPU" : "VF"}</span>
        ${isVgpu(card) && html`<bdi class="name">${nameOf(card)}</bdi>`}
      <//>
      ${mark && html`<span class="mark">changed: <bdi>${mark.text}</bdi></span>`}
    <//>
  </li>`;
}

/** @param {{card: Card, shown: Shown, children?: unknown}} props */
function Pick({ card, shown, children }) {
  return html`<button
    type="button"
    class="pick"
    data-key=${card.key}
    aria-pressed=${shown.selected === card.key}
    onClick=${() => shown.onSelect(card.key)}
  >
    ${children}
  </button>`;
}

/** @param {Card} card */
const isVgpu = ({ fn, device }) => Boolean(device?.profile || fn?.mdev_uuid);

/** @param {{card: Card, children?: unknown}} props */
function Facts({ card, children }) {
  const { fn, device } = card;
  const domain = domainOf(card);
  return html`<span class="facts">
      ${children} ${fn && html`<span class="address">${card.key}</span>`}
      ${device && html`<bdi class="registered">${device.name}</bdi>`}
      ${fn && html`<${Driver} card=${card} />`} ${children && card.group && html`<${Status} group=${card.group} />`}
    </span>
    ${domain && html`<span class="domain"><${Icon} name="domain" /><bdi>${domain}</bdi></span>`}
    ${fn?.users.map(
      (user) => html`<span class="domain"><${Icon} name="domain" /><bdi>${user.domain}</bdi> ${user.via}</span>`,
    )}
    ${fn?.host_uses.map((use) => html`<span class="use"><${Icon} name="host" />${use.what}</span>`)}
    ${troubles(card).map((each) => html`<span class="trouble"><${Icon} name="warning" />${each}</span>`)}`;
}

/** @param {{card: Card}} props */
function Driver({ card }) {
  const driver = card.fn?.current_driver;
  if (!driver) return html`<span class="driver none">no driver</span>`;
  return html`<span class=${isOnVfio(card) ? "driver vfio" : "driver"}>${driver}</span>`;
}

/** @param {{use: {used: number, total: number, words: string}}} props */
function SliceBar({ use }) {
  const width = (100 * use.used) / use.total;
  return html`<div class="bar">
    <svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false">
      <rect class="free" width="100" height="6" />
      <rect class="used" width=${width} height="6" />
    </svg>
    <span>${use.words}</span>
  </div>`;
}

/**
 * Arrow keys go from function to function, Home and End to the first and last.
 * @param {KeyboardEvent & {currentTarget: HTMLElement}} event
 */
function walk(event) {
  const steps = /** @type {Record<string, number>} */ ({ ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity });
  const step = steps[event.key];
  const here = /** @type {HTMLElement} */ (event.target).closest(".pick");
  if (step === undefined || !here) return;
  const all = /** @type {HTMLElement[]} */ ([...event.currentTarget.querySelectorAll(".pick")]);
  const next = Math.min(all.length - 1, Math.max(0, all.indexOf(/** @type {HTMLElement} */ (here)) + step));
  all[next].focus();
  event.preventDefault();
}
