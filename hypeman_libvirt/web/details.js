/** One function or device: its facts, its preflight, and what can be done with it. */

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { actionsOf, whyNot } from "./actions.js";
import { segment } from "./api.js";
import { KINDS, domainOf, isOnVfio, kindOf, nameOf, slowLink, tagsOf, troubles } from "./host.js";
import { Command, Icon, Select } from "./parts.js";
import { Status } from "./picture.js";

/** @import { Api } from "./api.js" */
/** @import { Card, Check, Context, Preflight, Preflights } from "./types.js" */

/**
 * @param {{context: Omit<Context, "preflights">, api: Api, version: number, onAct: (id: string, context: Context) => void, onClose: () => void}} props
 */
export function Details({ context: known, api, version, onAct, onClose }) {
  const { card } = known;
  const preflights = usePreflights(api, known, version);
  const context = /** @type {Context} */ ({ ...known, preflights });
  const heading = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => heading.current?.focus(), [card.key]);
  return html`<aside class="details" aria-labelledby="details-heading">
    <div class="title">
      <div>
        <p class="kind">${card.device?.profile ? "vGPU" : KINDS[kindOf(card.fn)]}</p>
        <h2 id="details-heading" ref=${heading} tabindex="-1"><bdi>${card.device ? card.device.name : nameOf(card)}</bdi></h2>
        ${card.device && html`<p><bdi>${nameOf(card)}</bdi></p>`}
      </div>
      <button type="button" class="small" onClick=${onClose}>Close</button>
    </div>
    <p class="state">${summary(context)}</p>
    ${troubles(card).map((each) => html`<p class="trouble"><${Icon} name="warning" />${each}</p>`)}
    <${Actions} context=${context} onAct=${onAct} />
    ${preflights && html`<${Preflights} context=${context} />`}
    <${FactList} card=${card} />
  </aside>`;
}

/** @param {Context} context */
function summary({ card }) {
  const domain = domainOf(card);
  if (domain) return html`Domain <bdi><b>${domain}</b></bdi> has it.`;
  if (!card.fn) return "Nothing is known of it beyond its registration.";
  if (!card.fn.assignable) return "A bridge: it stays with the host, and hinders no guest.";
  if (isOnVfio(card)) return "On vfio-pci, and no domain has it.";
  return card.fn.current_driver ? html`With the host, on ${card.fn.current_driver}.` : "No driver has it.";
}

/** @param {{context: Context, onAct: (id: string, context: Context) => void}} props */
function Actions({ context, onAct }) {
  const actions = actionsOf(context);
  if (!actions.length || !(context.card.fn?.assignable ?? true)) return null;
  return html`<section aria-labelledby="actions-heading">
    <h3 id="actions-heading">Actions</h3>
    <ul class="actions">
      ${actions.map((action) => {
        const why = whyNot(action, context);
        const reason = why ? `why-${action.id}` : undefined;
        return html`<li key=${action.id} class=${why ? "refused" : ""}>
          <button type="button" data-action=${action.id} aria-disabled=${why ? "true" : "false"} aria-describedby=${reason} onClick=${() => !why && onAct(action.id, context)}>
            ${action.label}
          </button>
          ${why && html`<bdi class="why" id=${reason}>${why}</bdi>`}
        </li>`;
      })}
    </ul>
  </section>`;
}

/** @param {{context: Context}} props */
function Preflights({ context }) {
  const { preflights, siblings } = context;
  const [scope, setScope] = useState("device");
  const [purpose, setPurpose] = useState("attach");
  const asked = preflights?.[/** @type {"attach" | "bind"} */ (purpose)]?.[siblings.length ? scope : "device"];
  return html`<section aria-labelledby="preflight-heading">
    <h3 id="preflight-heading">Preflight ${asked && html`<span class=${`verdict ${asked.ready ? "ok" : "error"}`}><${Icon} name=${asked.ready ? "ok" : "error"} />${asked.ready ? "ready" : "not ready"}</span>`}</h3>
    <div class="choices">
      <${Select} label="for" value=${purpose} options=${[["attach", "a guest"], ["bind", "bind"]]} onChoose=${setPurpose} />
      ${siblings.length > 0 && html`<${Select} label="of" value=${scope} options=${[["device", "this function"], ["group", "the whole group"]]} onChoose=${setScope} />`}
    </div>
    ${asked && html`<${Checks} preflight=${asked} context=${context} />`}
  </section>`;
}

/**
 * The checks, errors first, each with what to do about it.
 * @param {{preflight: Preflight, context: Context}} props
 */
export function Checks({ preflight, context }) {
  const order = { error: 0, warning: 1, ok: 2 };
  const checks = [...preflight.checks].sort((a, b) => order[a.severity] - order[b.severity]);
  const fine = checks.filter((check) => check.severity === "ok");
  return html`<${CheckList} checks=${checks.filter((check) => check.severity !== "ok")} context=${context} />
    <details class="fine">
      <summary>${fine.length} checks found nothing wrong</summary>
      <${CheckList} checks=${fine} context=${context} />
    </details>`;
}

/** @param {{checks: Check[], context: Context}} props */
function CheckList({ checks, context }) {
  return html`<ul class="checks">
    ${checks.map((check) => {
      const command = check.severity !== "ok" && cure(check, context);
      return html`<li key=${check.id} class=${check.severity}>
        <span class="severity"><${Icon} name=${check.severity} /><span class="word">${check.severity}</span></span>
        <div>
          <bdi>${check.message}</bdi>
          ${check.hint && html`<p class="hint"><bdi>${check.hint}</bdi></p>`}
          ${command && html`<${Command} command=${command} />`}
        </div>
      </li>`;
    })}
  </ul>`;
}

/**
 * The command that mends what a check has found, or shows more of it.
 * @param {Check} check
 * @param {Context} context
 */
export function cure(check, { card }) {
  const [device, address] = [card.device?.name, card.fn?.pci_address];
  /** @type {Record<string, string | null | undefined>} */
  const cures = {
    iommu: "hypeman-libvirt doctor",
    vfio: "modprobe vfio-pci",
    group: device ? `hypeman-libvirt devices bind ${device} --scope group` : `hypeman-libvirt devices register ${address} --bind group`,
    in_use: device && domainOf(card) ? `hypeman-libvirt devices detach ${device}` : "virsh list --all",
    critical: address && `lspci -vs ${address}`,
    sriov: address && `echo 0 > /sys/bus/pci/devices/${address}/sriov_numvfs`,
    registered: address && `hypeman-libvirt devices register ${address}`,
    identity: device && `hypeman-libvirt devices get ${device}`,
    pcie_link: address && `lspci -vvs ${address} | grep -i lnk`,
    numa: "virsh capabilities",
  };
  return cures[check.id] || null;
}

/** @param {{card: Card}} props */
function FactList({ card }) {
  const { fn, device, group } = card;
  /** @type {[string, unknown][]} */
  const facts = [
    ["PCI address", fn?.pci_address || device?.pci_address],
    ["Name in libvirt", fn?.node_name],
    ["IDs", fn ? `${fn.vendor_id}:${fn.device_id}` : null],
    ["Vendor", fn?.vendor_name],
    ["Class", fn?.class],
    ["IOMMU group", group && html`${group.iommu_group} <${Status} group=${group} />`],
    ["Group says", group?.reason],
    ["NUMA node", fn?.numa_node ?? null],
    ["Link", fn?.link ? slowLink(fn) || `x${fn.link.width}, ${fn.link.speed} GT/s` : null],
    ["Place", fn?.topology],
    ["Physical function", fn?.physical_function],
    ["vGPU profiles", fn?.vgpu_profiles?.map((each) => `${each.name}: ${each.available} more fit`).join(", ")],
    ["Host uses it", fn?.host_uses.map((use) => use.what).join("; ")],
    ["Lives on it", fn?.users.map((user) => `${user.domain}: ${user.via}`).join("; ")],
    ["Id", device?.id],
    ["Registered", device && new Date(device.created_at).toLocaleString("en-GB")],
    ["Tags", device && tagsOf(device).join(", ")],
    ["Moved from", device?.moved_from],
    ["May be at", device?.candidates?.join(", ")],
    ["After a reboot", device?.persistent ? "on vfio-pci again" : null],
  ];
  return html`<section aria-labelledby="facts-heading">
    <h3 id="facts-heading">Facts</h3>
    <dl>
      ${facts
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([label, value]) => html`<div key=${label}><dt>${label}</dt><dd><bdi>${value}</bdi></dd></div>`)}
    </dl>
  </section>`;
}

/**
 * Ask what bind and attach would answer; again when something has happened.
 * @param {Api} api
 * @param {Omit<Context, "preflights">} context
 * @param {number} version
 * @returns {Preflights | null}
 */
function usePreflights(api, { card, siblings }, version) {
  const [asked, setAsked] = useState(/** @type {{key: string, preflights: any} | null} */ (null));
  const state = `${card.key} ${card.fn?.current_driver} ${domainOf(card)} ${card.device?.id} ${version}`;
  useEffect(() => {
    if (!card.fn?.assignable || (card.fn.mdev_uuid && !card.device)) return undefined;
    const stop = new AbortController();
    const base = card.device
      ? `devices/${segment(card.device.id)}/preflight?`
      : `devices/preflight?pci_address=${segment(card.fn.pci_address)}&`;
    askAll(api, base, siblings.length ? ["device", "group"] : ["device"], stop.signal)
      .then((preflights) => setAsked({ key: card.key, preflights }))
      .catch(() => {});
    return () => stop.abort();
  }, [state]);
  return asked?.key === card.key ? asked.preflights : null;
}

/**
 * @param {Api} api
 * @param {string} base
 * @param {string[]} scopes
 * @param {AbortSignal} signal
 */
async function askAll(api, base, scopes, signal) {
  /** @type {any} */
  const preflights = { bind: {}, attach: {} };
  for (const purpose of ["attach", "bind"]) {
    for (const scope of scopes) {
      preflights[purpose][scope] = await api.ask(`${base}for=${purpose}&scope=${scope}`, { signal });
    }
  }
  return preflights;
}
