/** The host as the picture draws it: pure functions over what the API answers. */

/** @import { Box, Card, Device, Filter, Host, HostFunction, Picture, Port } from "./types.js" */

export const KINDS = /** @type {const} */ ({
  gpu: "GPU",
  accelerator: "Accelerator",
  network: "Network",
  storage: "Storage",
  audio: "Audio",
  usb: "USB",
  other: "Other",
  bridge: "Bridge",
});

/** @type {Record<string, {label: string, fits: (card: Card) => boolean}>} */
export const STATES = {
  registered: { label: "Registered", fits: (card) => card.device !== null },
  unregistered: { label: "Not registered", fits: (card) => card.device === null },
  vfio: { label: "On vfio-pci", fits: isOnVfio },
  attached: { label: "Has a domain", fits: (card) => domainOf(card) !== null },
  free: { label: "No domain has it", fits: (card) => domainOf(card) === null },
  host: { label: "The host uses it", fits: (card) => (card.fn?.host_uses.length || 0) > 0 },
  blocked: { label: "Group not viable", fits: (card) => card.group !== null && !card.group.viable },
  troubled: { label: "Needs attention", fits: (card) => troubles(card).length > 0 },
};

/** @type {Filter} */
export const NO_FILTER = { text: "", kind: "", state: "", tag: "", bridges: false };

const BY_CLASS = /** @type {const} */ ({
  "01": "storage",
  "02": "network",
  "06": "bridge",
  12: "accelerator",
});

/**
 * @param {HostFunction | null} fn
 * @returns {keyof typeof KINDS}
 */
export function kindOf(fn) {
  if (!fn || fn.type === "gpu") return "gpu";
  const code = fn.class || "";
  if (code.startsWith("0x0403") || code.startsWith("0x0401")) return "audio";
  if (code.startsWith("0x0c03")) return "usb";
  if (code.startsWith("0x0b40")) return "accelerator";
  const base = /** @type {keyof typeof BY_CLASS} */ (code.slice(2, 4));
  const kind = BY_CLASS[base] || "other";
  return kind === "bridge" && fn.assignable ? "accelerator" : kind;
}

/** @param {Card} card */
export function nameOf({ fn, device }) {
  if (device?.profile) return device.profile;
  if (!fn) return device ? `${device.vendor_id}:${device.device_id}` : "";
  return fn.mdev_type || fn.device_name || `${fn.vendor_name || fn.vendor_id} ${fn.device_id}`;
}

/** @param {Card} card */
export function domainOf({ fn, device }) {
  return fn?.attached_domain || device?.attached_domain || null;
}

/** @param {Card} card */
export function isOnVfio({ fn, device }) {
  if (device) return device.bound_to_vfio;
  return (fn?.current_driver || "").replaceAll("_", "-").endsWith("vfio-pci");
}

/**
 * What is wrong with a card, each a few words.
 * @param {Card} card
 */
export function troubles(card) {
  const { device } = card;
  const found = [];
  if (device?.state === "missing") found.push("its card is not on the host");
  if (device?.state === "changed") found.push("another card is at its address");
  if (device?.state === "moved") found.push("its card may have moved");
  const health = healthOf(card);
  if (health) found.push(health);
  const slow = slowLink(card.fn);
  if (slow) found.push(slow);
  return found;
}

/** @param {Card} card @returns {string | null} why it is in quarantine */
export function healthOf({ fn, device }) {
  const health = device?.health || fn?.health;
  return health && health.status !== "ok" ? `${health.status}: ${health.reason}` : null;
}

/**
 * @param {HostFunction | null} fn
 * @returns {string | null} the link, where it is below what the function can do
 */
export function slowLink(fn) {
  const link = fn?.link;
  if (!link || !link.width) return null;
  if (link.width < link.max_width) return `link x${link.width} of x${link.max_width}`;
  if (link.speed < link.max_speed) return `link ${link.speed} of ${link.max_speed} GT/s`;
  return null;
}

/**
 * @param {Card} card
 * @returns {{used: number, total: number, words: string} | null} how much of a card's slices is taken
 */
export function sliceUse(card) {
  const { slices, fn } = card;
  const room = (fn?.vgpu_profiles || []).reduce((most, each) => Math.max(most, each.available), 0);
  const total = slices.length + room;
  if (!total) return null;
  const used = slices.filter((each) => domainOf(each) || each.device?.profile || each.fn?.mdev_uuid).length;
  const free = `${total - used} of ${total} free`;
  return { used, total, words: room && !slices.length ? `room for ${room} vGPUs` : free };
}

/**
 * Put the host together as a picture.
 * @param {Host} host
 * @param {Filter} filter
 * @returns {Picture}
 */
export function draw(host, filter) {
  const cards = makeCards(host);
  const fits = compile(filter);
  const all = [...cards.values()];
  const whole = all.filter((card) => !isSlice(card, cards));
  const shown = whole.filter((card) => fits(card) || card.slices.some(fits));
  const lost = shown.filter((card) => card.fn === null);
  const sockets = bySocket(shown.filter((card) => card.fn !== null), cards);
  return {
    sockets,
    lost,
    cards,
    shown: shown.length + shown.reduce((sum, card) => sum + card.slices.length, 0),
    total: all.filter((card) => kindOf(card.fn) !== "bridge").length,
  };
}

/**
 * @param {Host} host
 * @returns {Map<string, Card>} by key
 */
export function makeCards({ topology, devices }) {
  const groups = new Map(topology.iommu_groups.map((group) => [group.iommu_group, group]));
  const cards = new Map();
  for (const fn of topology.functions) {
    const group = fn.iommu_group === null ? null : groups.get(fn.iommu_group) || null;
    const key = fn.mdev_uuid || fn.pci_address;
    cards.set(key, { key, fn, device: null, group, slices: [] });
  }
  for (const device of devices) addDevice(cards, device);
  for (const card of cards.values()) {
    const above = parentOf(card);
    if (above && cards.has(above)) cards.get(above).slices.push(card);
  }
  return cards;
}

/**
 * @param {Map<string, Card>} cards
 * @param {Device} device
 */
function addDevice(cards, device) {
  const card = cards.get(device.mdev_uuid || device.pci_address);
  const own = card && device.state !== "missing" && device.state !== "moved";
  if (own && !card.device) card.device = device;
  else cards.set(device.id, { key: device.id, fn: null, device, group: null, slices: [] });
}

/** @param {Card} card */
function parentOf({ fn, device }) {
  if (fn) return fn.mdev_uuid ? fn.pci_address : fn.physical_function || null;
  return device?.mdev_uuid ? device.parent || device.pci_address : null;
}

/** @param {Card} card @param {Map<string, Card>} cards */
function isSlice(card, cards) {
  return cards.has(parentOf(card) || "");
}

/**
 * @param {Filter} filter
 * @returns {(card: Card) => boolean}
 */
export function compile(filter) {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  return (card) => {
    const kind = kindOf(card.fn);
    if (kind === "bridge" && !filter.bridges && filter.kind !== "bridge") return false;
    if (filter.kind && kind !== filter.kind) return false;
    if (filter.state && !STATES[filter.state]?.fits(card)) return false;
    if (filter.tag && !tagsOf(card.device).includes(filter.tag)) return false;
    if (!words.length) return true;
    const text = searchable(card);
    return words.every((word) => text.includes(word));
  };
}

/** @param {Device | null} device */
export function tagsOf(device) {
  return Object.entries(device?.tags || {}).map(([key, value]) => `${key}=${value}`);
}

/** @param {Card} card */
function searchable(card) {
  const { fn, device, key } = card;
  return [
    key,
    nameOf(card),
    fn?.vendor_name,
    fn && `${fn.vendor_id}:${fn.device_id}`,
    fn?.node_name,
    fn?.current_driver || "no driver",
    fn && fn.iommu_group !== null ? `group ${fn.iommu_group}` : "",
    fn?.registered_as,
    device?.name,
    device?.id,
    domainOf(card),
    KINDS[kindOf(fn)],
    ...tagsOf(device),
    ...(fn?.host_uses || []).map((use) => use.what),
    ...(fn?.users || []).map((user) => user.domain),
  ]
    .join(" ")
    .toLowerCase();
}

/**
 * @param {Card[]} shown
 * @param {Map<string, Card>} all
 * @returns {Picture["sockets"]}
 */
function bySocket(shown, all) {
  /** @type {Map<string, Card[]>} */
  const ports = new Map();
  for (const card of shown) {
    const key = portOf(/** @type {HostFunction} */ (card.fn), all);
    ports.set(key, [...(ports.get(key) || []), card]);
  }
  /** @type {Map<string, Picture["sockets"][0]>} */
  const sockets = new Map();
  for (const [key, cards] of ports) {
    const numa = cards.map((card) => card.fn?.numa_node ?? null).find((node) => node !== null) ?? null;
    const id = numa === null ? "none" : String(numa);
    if (!sockets.has(id)) sockets.set(id, { key: id, title: title(numa), ports: [] });
    sockets.get(id)?.ports.push(port(key, cards, all, ports));
  }
  const sorted = [...sockets.values()].sort((a, b) => a.key.localeCompare(b.key));
  sorted.forEach((socket) => socket.ports.sort(byWeight));
  return sorted;
}

/** @param {number | null} numa */
function title(numa) {
  return numa === null ? "No NUMA node said" : `Socket ${numa}`;
}

/**
 * @param {string} key
 * @param {Card[]} cards
 * @param {Map<string, Card>} all
 * @param {Map<string, Card[]>} ports
 * @returns {Port}
 */
function port(key, cards, all, ports) {
  /** @type {Map<number | null, Box>} */
  const boxes = new Map();
  for (const card of cards) {
    const number = card.fn?.iommu_group ?? null;
    const box = boxes.get(number) || { number, group: card.group, cards: [], elsewhere: [] };
    box.cards.push(card);
    boxes.set(number, box);
  }
  for (const box of boxes.values()) {
    if (box.number === null) continue;
    for (const [other, theirs] of ports) {
      if (other !== key && theirs.some((card) => card.fn?.iommu_group === box.number)) box.elsewhere.push(other);
    }
  }
  return { key, bridge: all.get(key)?.fn || null, boxes: [...boxes.values()], cards };
}

/**
 * The root port above a function: the highest bridge, else its root bus.
 * @param {HostFunction} fn
 * @param {Map<string, Card>} all
 */
function portOf(fn, all) {
  let above = fn;
  for (let depth = 0; above.parent && depth < 64; depth += 1) {
    const next = all.get(above.parent)?.fn;
    if (!next) break;
    above = next;
  }
  if (above !== fn || !fn.assignable) return above.pci_address;
  return `bus ${fn.pci_address.slice(0, fn.pci_address.lastIndexOf(":"))}`;
}

const WEIGHTS = /** @type {const} */ ({ gpu: 0, accelerator: 0, network: 1, storage: 2 });

/** @param {Card} card */
function weight(card) {
  const kind = kindOf(card.fn);
  return kind in WEIGHTS ? WEIGHTS[/** @type {keyof typeof WEIGHTS} */ (kind)] : 3;
}

/**
 * GPUs first, then NICs, then by address.
 * @param {Port} a
 * @param {Port} b
 */
function byWeight(a, b) {
  const heavier = Math.min(...a.cards.map(weight)) - Math.min(...b.cards.map(weight));
  return heavier || a.key.localeCompare(b.key);
}

/**
 * What differs between two looks at the host, in words, by the card's key.
 * @param {Host} before
 * @param {Host} after
 * @returns {Map<string, string>}
 */
export function differences(before, after) {
  const [then, now] = [makeCards(before), makeCards(after)];
  const found = new Map();
  for (const [key, card] of now) {
    const old = then.get(key);
    const what = old ? compare(old, card) : ["appeared"];
    if (what.length) found.set(key, what.join(", "));
  }
  return found;
}

/** @param {Card} then @param {Card} now */
function compare(then, now) {
  const what = [];
  const [driver, was] = [now.fn?.current_driver, then.fn?.current_driver];
  if (driver !== was) what.push(`driver ${was || "none"} → ${driver || "none"}`);
  const [domain, had] = [domainOf(now), domainOf(then)];
  if (domain !== had) what.push(domain ? `now with ${domain}` : `no longer with ${had}`);
  if (now.device?.name !== then.device?.name) what.push(now.device ? `registered as ${now.device.name}` : "unregistered");
  if (now.device && then.device && now.device.state !== then.device.state) what.push(now.device.state);
  if (healthOf(now) !== healthOf(then)) what.push(healthOf(now) || "healthy again");
  return what;
}
