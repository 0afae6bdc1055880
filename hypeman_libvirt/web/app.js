/** The page as a whole: who is signed in, what is chosen, what is being done. */

import { html, useEffect, useMemo, useReducer, useState } from "./vendor/preact-htm.js";
import { ACTIONS } from "./actions.js";
import { Details } from "./details.js";
import { ActionDialog } from "./dialog.js";
import { Filters } from "./filters.js";
import { HistoryView } from "./history.js";
import { NO_FILTER, draw, kindOf } from "./host.js";
import { Jobs, reduceJobs, run } from "./jobs.js";
import { useLive } from "./live.js";
import { Elapsed, Icon, clock } from "./parts.js";
import { DENSE, Picture } from "./picture.js";
import { SignIn } from "./signin.js";

/** @import { Api } from "./api.js" */
/** @import { Card, Context, Live, Session, Values, VgpuProfile } from "./types.js" */

/** @param {{api: Api}} props */
export function App({ api }) {
  const [session, setSession] = useState(/** @type {Session | null} */ (null));
  const [said, setSaid] = useState(/** @type {string | null} */ (null));
  const [asked, setAsked] = useState(false);
  useEffect(() => {
    api.signIn(null).then(setSession, () => {}).finally(() => setAsked(true));
  }, []);
  /** @param {string} token @param {boolean} keep */
  const signIn = (token, keep) =>
    api.signIn(token, keep).then(
      (signedIn) => {
        setSaid(null);
        setSession(signedIn);
      },
      (/** @type {Error} */ error) => setSaid(error.message),
    );
  /** @param {string | null} why */
  const signOut = async (why) => {
    await api.signOut();
    setSaid(why);
    setSession(null);
  };
  if (!asked) return html`<p class="loading">…</p>`;
  if (!session) return html`<${SignIn} said=${said} onToken=${signIn} />`;
  return html`<${Host} api=${api} session=${session} onSignOut=${signOut} />`;
}

/** @param {{api: Api, session: Session, onSignOut: (why: string | null) => void}} props */
function Host({ api, session, onSignOut }) {
  const [live, look] = useLive(api, session, (error) => onSignOut(error.message));
  const [view, setView] = useState("host");
  const [selected, setSelected] = useState(/** @type {string | null} */ (null));
  const [filter, setFilter] = useState(NO_FILTER);
  const [open, setOpen] = useState(/** @type {Map<string, boolean>} */ (new Map()));
  const [acting, setActing] = useState(/** @type {{id: string, context: Context} | null} */ (null));
  const [jobs, step] = useReducer(reduceJobs, []);
  const [back, setBack] = useState(/** @type {string | null} */ (null));
  useEffect(() => {
    const left = selected === null && back && document.querySelector(`[data-key="${CSS.escape(back)}"]`);
    if (left) /** @type {HTMLElement} */ (left).focus();
  }, [selected]);
  const [spec, profiles] = useOffer(api, live.version);
  const { host } = live;
  const picture = useMemo(() => host && draw(host, filter), [host, filter]);
  if (!host || !picture) {
    return html`<${Header} live=${live} session=${session} view=${view} onView=${setView} onSignOut=${() => onSignOut(null)} />
      <main><p class="loading">asking libvirt …</p></main>`;
  }
  const card = selected === null ? null : picture.cards.get(selected) || null;
  const siblings = card ? [...picture.cards.values()].filter((each) => isSibling(each, card)) : [];
  /** @param {string} key */
  const select = (key) => {
    setView("host");
    setSelected(key === selected ? null : key);
  };
  const close = () => {
    setBack(selected);
    setSelected(null);
  };
  const shown = {
    selected,
    onSelect: select,
    marks: live.marks,
    open,
    onOpen: (/** @type {string} */ key, /** @type {boolean} */ now) => setOpen(new Map(open).set(key, now)),
    dense: picture.shown > DENSE,
  };
  /** @param {Parameters<typeof run>[2]} what */
  const doIt = (what) => run(api, step, what).then(look);
  /** @param {Values} values */
  const act = (values) => {
    const action = ACTIONS.find((each) => each.id === acting?.id);
    const context = acting?.context;
    setActing(null);
    if (!action || !context) return;
    doIt({
      text: `${action.label}: ${context.card.device?.name || context.card.key}`,
      request: action.request(context, values),
      done: (answer) => action.done(context, values, answer),
      undo: (answer) => action.undo?.(context, values, answer) || null,
    });
  };
  const action = ACTIONS.find((each) => each.id === acting?.id);
  return html`<${Header} live=${live} session=${session} view=${view} onView=${setView} onSignOut=${() => onSignOut(null)} />
    <main class=${card && view === "host" ? "with-details" : ""}>
      ${view === "host" && html`<div class="whole">
        <${Filters} filter=${filter} onFilter=${setFilter} picture=${picture} devices=${host.devices} />
        <${Legend} />
        <${Picture} picture=${picture} shown=${shown} />
      </div>`}
      ${view === "host" && card && html`<${Details} context=${{ card, siblings, host, session, spec, profiles }} api=${api} version=${live.version} onAct=${(/** @type {string} */ id, /** @type {any} */ context) => setActing({ id, context })} onClose=${close} />`}
      ${view === "history" && html`<${HistoryView} api=${api} host=${host} version=${live.version + jobs.length} dashboard=${session.dashboard} onSelect=${select} />`}
    </main>
    ${action && acting && html`<${ActionDialog} key=${acting.id} action=${action} context=${acting.context} api=${api} onDo=${act} onClose=${() => setActing(null)} />`}
    <${Jobs} jobs=${jobs} onDismiss=${(/** @type {any} */ job) => step({ type: "dismiss", id: job.id })}
      onUndo=${(/** @type {any} */ job) => {
        step({ type: "dismiss", id: job.id });
        doIt({ text: `Undo: ${job.text}`, request: job.undo, done: () => `Undone: ${job.text}` });
      }} />
    <p class="quiet" role="status">${live.said}</p>`;
}

/**
 * @param {Card} each
 * @param {Card} card
 */
function isSibling(each, card) {
  const group = card.fn?.iommu_group ?? null;
  return group !== null && each !== card && each.fn?.iommu_group === group && each.fn.assignable && kindOf(each.fn) !== "bridge";
}

/** @param {{live: Live, session: Session, view: string, onView: (view: string) => void, onSignOut: () => void}} props */
function Header({ live, session, view, onView, onSignOut }) {
  return html`<header>
    <h1>hypeman-libvirt</h1>
    <nav aria-label="Views">
      ${[["host", "Host"], ["history", "History"]].map(
        ([id, label]) => html`<button type="button" class="tab" aria-current=${view === id ? "page" : undefined} onClick=${() => onView(id)}>${label}</button>`,
      )}
    </nav>
    <${Contact} live=${live} />
    <div class="who">
      <span><bdi>${session.subject || "no token needed"}</bdi>${session.expires && html` until ${clock(session.expires)}`}</span>
      <button type="button" class="small" onClick=${onSignOut}>Sign out</button>
    </div>
  </header>`;
}

/** @param {{live: Live}} props */
function Contact({ live }) {
  const { trouble, following } = live;
  if (trouble) {
    return html`<div class="contact away" role="alert">
      <${Icon} name="error" /><span>Not what is now: <bdi>${trouble.what}</bdi>, since ${clock(trouble.since)} <span aria-hidden="true">(<${Elapsed} since=${trouble.since} />)</span></span>
    </div>`;
  }
  const words = following ? "live" : "looks every few seconds";
  return html`<div class="contact" role="status"><span class=${following ? "dot" : "dot slow"} aria-hidden="true"></span>${words}</div>`;
}

function Legend() {
  return html`<p class="legend">
    <span>Groups:</span>
    <span class="status viable"><${Icon} name="viable" />viable: a guest can have it now</span>
    <span class="status needs_bind"><${Icon} name="needs_bind" />bind first: it is on host drivers</span>
    <span class="status never"><${Icon} name="never" />never: a bridge or the host keeps it</span>
  </p>`;
}

/**
 * What the running service offers: its document, and its vGPU profiles where it has any.
 * @param {Api} api
 * @param {number} version
 * @returns {[any, VgpuProfile[]]}
 */
function useOffer(api, version) {
  const [spec, setSpec] = useState(/** @type {any} */ (null));
  const [profiles, setProfiles] = useState(/** @type {VgpuProfile[]} */ ([]));
  useEffect(() => {
    api.ask("spec.json").then(setSpec, () => {});
  }, []);
  useEffect(() => {
    if (spec?.paths["/devices/vgpu-profiles"]) api.ask("devices/vgpu-profiles").then(setProfiles, () => setProfiles([]));
  }, [version, spec]);
  return [spec, profiles];
}
