/** Search and filters above the picture. */

import { html, useEffect, useRef } from "./vendor/preact-htm.js";
import { KINDS, NO_FILTER, STATES, tagsOf } from "./host.js";
import { Select, ticked, typed } from "./parts.js";

/** @import { Device, Filter, Picture } from "./types.js" */

const ANY = ["", "any"];

/**
 * @param {{filter: Filter, onFilter: (filter: Filter) => void, picture: Picture, devices: Device[]}} props
 */
export function Filters({ filter, onFilter, picture, devices }) {
  const search = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => {
    /** @param {KeyboardEvent} event */
    const toSearch = (event) => {
      const inField = /** @type {HTMLElement} */ (event.target).closest("input, select, textarea, dialog");
      if (event.key !== "/" || inField) return;
      event.preventDefault();
      search.current?.focus();
    };
    document.addEventListener("keydown", toSearch);
    return () => document.removeEventListener("keydown", toSearch);
  }, []);
  const tags = [...new Set(devices.flatMap(tagsOf))].sort();
  /** @param {Partial<Filter>} change */
  const set = (change) => onFilter({ ...filter, ...change });
  const filtered = JSON.stringify({ ...filter, bridges: false }) !== JSON.stringify(NO_FILTER);
  return html`<form class="filters" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    <label class="search">
      <span>Search</span>
      <input
        ref=${search}
        type="search"
        placeholder="name, address, driver, domain ( / )"
        value=${filter.text}
        onInput=${typed((text) => set({ text }))}
      />
    </label>
    <${Select} label="Kind" value=${filter.kind} options=${[ANY, ...Object.entries(KINDS)]} onChoose=${(/** @type {string} */ kind) => set({ kind })} />
    <${Select}
      label="State"
      value=${filter.state}
      options=${[ANY, ...Object.entries(STATES).map(([key, state]) => [key, state.label])]}
      onChoose=${(/** @type {string} */ state) => set({ state })}
    />
    ${tags.length > 0 &&
    html`<${Select} label="Tag" value=${filter.tag} options=${[ANY, ...tags.map((tag) => [tag, tag])]} onChoose=${(/** @type {string} */ tag) => set({ tag })} />`}
    <label class="check">
      <input type="checkbox" checked=${filter.bridges} onChange=${ticked((bridges) => set({ bridges }))} />
      Bridges
    </label>
    <span class="count" role="status">${filtered ? `${picture.shown} of ${picture.total} shown` : `${picture.total} functions`}</span>
    ${filtered && html`<button type="button" class="small" onClick=${() => onFilter({ ...NO_FILTER, bridges: filter.bridges })}>Show all</button>`}
  </form>`;
}
