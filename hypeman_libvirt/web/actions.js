/** What can be done with a device: when, in which words, with which request, and how to undo it. */

import { segment } from "./api.js";
import { domainOf, healthOf, isOnVfio } from "./host.js";

/** @import { Action, Context, Field, Request, Values } from "./types.js" */

const CLI = "hypeman-libvirt devices";

/** @type {Action[]} */
export const ACTIONS = [
  {
    id: "register",
    label: "Register",
    fits: ({ card }) => card.fn !== null && !card.device,
    why: ({ card }) => {
      if (!card.fn?.assignable) return "a bridge stays with the host";
      return card.fn.iommu_group === null ? "it is in no IOMMU group" : null;
    },
    fields: (context) => [
      field("text", "name", "Name", { help: `left empty: pci-${at(context).replace(/[:.]/g, "-")}` }),
      tags({}),
      choice("bind", "Driver", [["", "stays as it is"], ["device", "bind it to vfio-pci"], ...ofGroup(context, "bind its whole group")]),
    ],
    words: (context, { name, bind }) => [
      `${at(context)} gets ${name ? `the name ${name}` : "a name made of its address"}, under which everybody finds it.`,
      bind ? `It leaves ${driver(context)} for vfio-pci in the same step, or neither happens.` : `Its driver stays as it is: ${driver(context)}.`,
    ],
    command: (context, values) =>
      [
        `${CLI} register ${at(context)}`,
        values.name && `--name ${quoted(values.name)}`,
        ...Object.entries(readTags(values.tags)).map((tag) => `--tag ${quoted(tag.join("="))}`),
        values.bind && `--bind ${values.bind}`,
      ].filter(Boolean).join(" "),
    request: (context, values) => ({
      path: "devices",
      method: "POST",
      body: given({ [context.card.fn?.mdev_uuid ? "mdev_uuid" : "pci_address"]: at(context), name: values.name, tags: values.tags && readTags(values.tags), bind: values.bind }),
    }),
    done: (_context, _values, answer) => `${answer.name} is registered`,
    undo: (_context, { bind }, answer) => remove(answer.id, bind),
  },
  {
    id: "bind",
    label: "Bind to vfio-pci",
    why: (context) => {
      const done = isOnVfio(context.card) && context.siblings.every(isOnVfio);
      return done ? "it is on vfio-pci already" : refusal(context, "bind");
    },
    fields: (context) => [...scopes(context), ...force(context, "bind"), ...persist(context, "BindRequest")],
    words: (context, values) => [
      `${taken(context, values)} leaves ${driver(context)} for vfio-pci: the host has it no more, a guest can.`,
      ...(values.force ? ["The host may lose a disk, its network or its display at this moment. The log says who did it."] : []),
    ],
    dangerous: (_context, values) => Boolean(values.force),
    preflight: (context, { scope = "device" }) => `${path(context)}/preflight?for=bind&scope=${scope}`,
    command: (context, values) => `${CLI} bind ${named(context)}${flags(values)}`,
    request: (context, values) => post(context, "bind", values),
    done: (context) => `${name(context)} is on vfio-pci`,
    undo: (context, { scope = "device" }) => post(context, "unbind", { scope }),
  },
  {
    id: "unbind",
    label: "Give back to the host",
    why: (context) => has(context) || (isOnVfio(context.card) ? null : "it is on its host driver already"),
    fields: (context) => scopes(context),
    words: (context, values) => [`${taken(context, values)} leaves vfio-pci and goes back to the driver of the host.`],
    command: (context, values) => `${CLI} unbind ${named(context)}${flags(values)}`,
    request: (context, values) => post(context, "unbind", values),
    done: (context) => `${name(context)} is back with the host`,
    undo: (context, { scope = "device" }) => post(context, "bind", { scope }),
  },
  {
    id: "attach",
    label: "Attach to a domain",
    why: (context) => has(context) || (context.host.topology.domains.length ? refusal(context, "attach") : "libvirt has no domain"),
    fields: (context) => [
      choice("instance", "Domain", [["", "choose"], ...context.host.topology.domains.map(({ uuid, name, state }) => pair(uuid, `${name} (${state})`))]),
      ...scopes(context),
      ...force(context, "attach"),
      ...(context.card.fn?.physical_function && takes(context, "AttachRequest", "mac")
        ? [field("text", "mac", "MAC address, optional"), field("number", "vlan", "VLAN, optional", { most: 4094 })]
        : []),
    ],
    words: (context, values) => {
      const domain = chosen(context, values);
      if (!domain) return [`${taken(context, values)} goes to the domain that you choose.`];
      const when = domain.state === "running" ? "at once, and at each next start" : "at its next start";
      return [`${taken(context, values)} goes to ${domain.name}: ${when}.`, ...(isOnVfio(context.card) ? [] : [`It leaves ${driver(context)} for that.`])];
    },
    dangerous: (_context, values) => Boolean(values.force),
    preflight: (context, { instance, scope = "device" }) =>
      `${path(context)}/preflight?for=attach&scope=${scope}${instance ? `&instance=${segment(instance)}` : ""}`,
    command: (context, values) => {
      const domain = chosen(context, values);
      return domain ? `${CLI} attach ${named(context)} ${quoted(domain.name)}${flags(values)}` : null;
    },
    request: (context, values) => post(context, "attach", given({ ...values, vlan: values.vlan && Number(values.vlan) })),
    done: (context, _values, answer) => `${name(context)} is attached to ${answer.attached_domain || answer.attached_to}`,
    undo: (context) => post(context, "detach"),
  },
  {
    id: "detach",
    label: "Detach from its domain",
    why: ({ card }) => (domainOf(card) ? null : "no domain has it"),
    words: (context) => [
      `${at(context)} is taken out of ${domainOf(context.card)}, ${runs(context) ? "which runs and must let go of it" : "which does not run"}; what it has of the same group goes too.`,
    ],
    dangerous: (context) => runs(context),
    command: (context) => `${CLI} detach ${named(context)}`,
    request: (context) => post(context, "detach"),
    done: (context) => `${name(context)} is free`,
    undo: (context) => {
      const domain = holder(context);
      const scope = context.siblings.some((each) => domainOf(each) === domain?.name) ? "group" : "device";
      return domain ? post(context, "attach", { instance: domain.uuid, scope }) : null;
    },
  },
  {
    id: "rename",
    label: "Rename",
    fields: (context) => [field("text", "name", "Name", { initial: name(context) })],
    words: (context, values) => [`${name(context)} is called ${values.name || "…"} from now on, also in the domain that has it.`],
    command: (context, values) => `${CLI} rename ${named(context)} ${quoted(values.name)}`,
    request: (context, values) => patch(context, values),
    done: (context, _values, answer) => `${name(context)} is called ${answer.name}`,
    undo: (context) => patch(context, { name: name(context) }),
  },
  {
    id: "tag",
    label: "Change tags",
    fields: ({ card }) => [tags(card.device?.tags)],
    words: (context, values) => [`These are the tags of ${name(context)} from now on: ${Object.keys(readTags(values.tags)).join(", ") || "none"}.`],
    request: (context, values) => patch(context, { tags: readTags(values.tags) }),
    done: (context) => `the tags of ${name(context)} are changed`,
    undo: (context) => patch(context, { tags: context.card.device?.tags || {} }),
  },
  {
    id: "functions",
    label: "Virtual functions",
    fits: (context) => offers(context, "virtual-functions") && Boolean(context.card.fn?.max_virtual_functions),
    why: ({ card }) => {
      const used = card.slices.find((each) => domainOf(each));
      return used && `domain ${domainOf(used)} has ${used.key}`;
    },
    fields: (context) => [
      field("number", "count", "How many", { initial: functions(context), most: context.card.fn?.max_virtual_functions }),
      field("check", "autoprobe", "Let host drivers take them"),
      ...persist(context, "VirtualFunctionsRequest"),
    ],
    words: (context, { count }) => [
      `${at(context)} has ${count} virtual functions instead of ${functions(context)}.`,
      ...(functions(context) && Number(count) !== functions(context) ? ["All that are there go first, and come back new."] : []),
    ],
    dangerous: (context) => functions(context) > 0,
    request: (context, values) => ({ path: `${path(context)}/virtual-functions`, method: "PUT", body: { ...values, count: Number(values.count) } }),
    done: (context, { count }) => `${name(context)} has ${count} virtual functions`,
    undo: (context) => ({ path: `${path(context)}/virtual-functions`, method: "PUT", body: { count: functions(context) } }),
  },
  {
    id: "vgpu",
    label: "Make a vGPU",
    fits: (context) => takes(context, "CreateDeviceRequest", "profile") && profiles(context).length > 0,
    why: (context) => (profiles(context).some(([, room]) => room > 0) ? null : "no profile fits any more"),
    fields: (context) => {
      const options = profiles(context).map(([name, room]) => pair(name, `${name} (${room} more fit)`));
      return [choice("profile", "Profile", options), field("text", "name", "Name, optional")];
    },
    words: (context, { profile }) => [`A vGPU ${profile} is made on ${at(context)} and registered. The GPU stays with its driver.`],
    request: (context, { profile, name }) => ({ path: "devices", method: "POST", body: given({ profile, parent: at(context), name }) }),
    done: (_context, { profile }, answer) => `${answer.name}, a ${profile}, is made and registered`,
    undo: (_context, _values, answer) => remove(answer.id),
  },
  {
    id: "clear",
    label: "End the quarantine",
    fits: (context) => offers(context, "clear") && healthOf(context.card) !== null,
    words: (context) => [`${name(context)} can be given to guests again. It was taken out because of: ${healthOf(context.card)}.`],
    dangerous: () => true,
    request: (context) => post(context, "clear"),
    done: (context) => `${name(context)} is out of quarantine`,
  },
  {
    id: "move",
    label: "Say where the card is now",
    fits: (context) => offers(context, "move") && (context.card.device?.candidates || []).length > 0,
    fields: ({ card }) => [choice("pci_address", "Address", (card.device?.candidates || []).map((each) => pair(each, each)))],
    words: (context, values) => [`The card of ${name(context)} is at ${values.pci_address} now; domains that have it are rewritten.`],
    dangerous: () => true,
    request: (context, values) => post(context, "move", values),
    done: (context, _values, answer) => `${name(context)} is at ${answer.pci_address}`,
  },
  {
    id: "unregister",
    label: "Unregister",
    permission: "device:delete",
    why: has,
    fields: (context) =>
      isOnVfio(context.card) && !context.card.device?.profile
        ? [choice("unbind", "Driver", [["", "stays on vfio-pci"], ["device", "back to the host"], ...ofGroup(context, "back to the host, with its group")])]
        : [],
    words: ({ card }, { unbind }) => [
      `The name ${card.device?.name}, its id and its tags are forgotten.`,
      card.device?.profile ? "The vGPU is taken away." : unbind ? "It goes back to the driver of the host." : "Its driver stays as it is.",
    ],
    dangerous: () => true,
    command: (context, { unbind }) => `${CLI} delete ${named(context)}${unbind ? ` --unbind ${unbind}` : ""}`,
    request: ({ card }, { unbind }) => remove(card.device?.id || "", unbind),
    done: (context) => `${name(context)} is not registered any more`,
    undo: ({ card: { fn, device } }) =>
      fn && device && !device.profile ? { path: "devices", method: "POST", body: given({ pci_address: device.pci_address, name: device.name, tags: device.tags }) } : null,
  },
];

/**
 * Which actions a card has at all. Of those of registered devices a function is shown what
 * registering it is good for.
 * @param {Context} context
 */
export function actionsOf(context) {
  return ACTIONS.filter(({ id, fits }) => (fits ? fits(context) : context.card.device || id === "bind" || id === "attach"));
}

/**
 * Why an action cannot be done: for want of a permission, or by what is known of the host.
 * @param {Action} action
 * @param {Context} context
 */
export function whyNot(action, context) {
  const { permissions } = context.session;
  const permission = action.permission || "device:write";
  if (!permissions.includes("*") && !permissions.includes(permission)) return `your token lacks ${permission}`;
  if (!action.fits && !context.card.device) return "register it first";
  return action.why?.(context) || null;
}

/**
 * @param {string} written `key=value`, with commas between
 * @returns {Record<string, string>}
 */
export function readTags(written) {
  const parts = String(written || "").split(",").map((each) => each.trim()).filter(Boolean);
  return Object.fromEntries(parts.map((each) => [each.split("=")[0].trim(), each.split("=").slice(1).join("=").trim()]));
}

// What is known of the card

/** @param {Context} context */
function at({ card }) {
  return card.fn ? card.key : card.device?.pci_address || "";
}

/** @param {Context} context */
function name({ card }) {
  return card.device?.name || card.key;
}

/** @param {Context} context */
function driver({ card }) {
  return card.fn?.current_driver || "no driver";
}

/** @param {Context} context */
function holder({ card, host }) {
  return host.topology.domains.find((each) => each.name === domainOf(card));
}

/** @param {Context} context */
function runs(context) {
  return holder(context)?.state === "running";
}

/** @param {Context} context */
function has({ card }) {
  return domainOf(card) && `domain ${domainOf(card)} has it; detach it first`;
}

/** @param {Context} context */
function functions({ card }) {
  return card.fn?.virtual_functions?.length || 0;
}

/** @param {Context} context @returns {[string, number][]} name, and how many more fit on this GPU */
function profiles(context) {
  return context.profiles.flatMap(({ name, parents }) =>
    parents.filter((each) => each.pci_address === at(context)).map((each) => /** @type {[string, number]} */ ([name, each.available])),
  );
}

/** @param {Context} context @param {Values} values */
function chosen({ host }, values) {
  return host.topology.domains.find((each) => each.uuid === values.instance);
}

/** @param {Context} context @param {Values} values */
function taken(context, { scope }) {
  const others = scope === "group" ? context.siblings.map((each) => each.key) : [];
  return [at(context), ...others].join(" and ");
}

/**
 * Why the checks refuse in every scope; what can be forced refuses nothing.
 * @param {Context} context
 * @param {"bind" | "attach"} purpose
 */
function refusal({ card, preflights }, purpose) {
  if (!card.fn) return "its card is not there";
  const asked = Object.values(preflights?.[purpose] || {});
  const refused = asked.map(({ checks }) => checks.find((each) => each.severity === "error" && each.id !== "critical"));
  return refused.every(Boolean) ? refused[0]?.message : null;
}

// What the running service offers, by its OpenAPI document

/** @param {Context} context @param {string} verb */
function offers({ spec }, verb) {
  return `/devices/{id}/${verb}` in (spec?.paths || {});
}

/** @param {Context} context @param {string} schema @param {string} field */
function takes({ spec }, schema, field) {
  return field in (spec?.components?.schemas?.[schema]?.properties || {});
}

// Fields of the form

/** @param {Field["kind"]} kind @param {string} name @param {string} label @param {Partial<Field>} [more] @returns {Field} */
function field(kind, name, label, more) {
  return { name, label, kind, initial: kind === "check" ? false : "", ...more };
}

/** @param {string} name @param {string} label @param {[string, string][]} options @returns {Field} */
function choice(name, label, options) {
  return field("choice", name, label, { options, initial: options[0]?.[0] });
}

/** @param {Record<string, string>} [of] @returns {Field} */
function tags(of = {}) {
  const written = Object.entries(of).map(([key, value]) => `${key}=${value}`).join(", ");
  return field("tags", "tags", "Tags", { initial: written });
}

/** @param {string} value @param {string} label @returns {[string, string]} */
function pair(value, label) {
  return [value, label];
}

/** @param {Context} context @param {string} label */
function ofGroup({ siblings }, label) {
  return siblings.length ? [pair("group", label)] : [];
}

/** @param {Context} context */
function scopes(context) {
  const group = ofGroup(context, `the whole IOMMU group (${context.siblings.length + 1} functions)`);
  return group.length ? [choice("scope", "What", [["device", "this function alone"], ...group])] : [];
}

/** @param {Context} context @param {"bind" | "attach"} purpose */
function force({ preflights }, purpose) {
  const checks = Object.values(preflights?.[purpose] || {}).flatMap((each) => each.checks);
  const critical = checks.find((each) => each.id === "critical" && each.severity === "error");
  return critical ? [field("check", "force", `Take it from the host all the same: ${critical.message}`)] : [];
}

/** @param {Context} context @param {string} schema */
function persist(context, schema) {
  return takes(context, schema, "persist") ? [field("check", "persist", "Again after each reboot")] : [];
}

// Requests and commands

/** @param {Context} context */
function path({ card }) {
  return `devices/${segment(card.device?.id || card.key)}`;
}

/** @param {Context} context @param {string} verb @param {unknown} [body] @returns {Request} */
function post(context, verb, body) {
  return { path: `${path(context)}/${verb}`, method: "POST", body };
}

/** @param {Context} context @param {unknown} body @returns {Request} */
function patch(context, body) {
  return { path: path(context), method: "PATCH", body };
}

/** @param {string} id @param {string} [unbind] @returns {Request} */
function remove(id, unbind) {
  return { path: `devices/${segment(id)}${unbind ? `?unbind=${unbind}` : ""}`, method: "DELETE" };
}

/** @param {Values} values without those that were left empty */
function given(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== "" && value !== undefined));
}

/** @param {Context} context */
function named({ card }) {
  return quoted(card.device?.name);
}

/** @param {unknown} word for a shell */
function quoted(word) {
  return /^[\w.:/=@+-]+$/.test(String(word)) ? String(word) : `'${String(word).replaceAll("'", "'\\''")}'`;
}

/** @param {Values} values */
function flags({ scope, force: forced }) {
  return `${scope === "group" ? " --scope group" : ""}${forced ? " --force" : ""}`;
}
