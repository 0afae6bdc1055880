/** What an action asks before it is done: fields, what it will do in words, and the checks. */

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.js";
import { Checks } from "./details.js";
import { Command, Select, ticked, typed } from "./parts.js";

/** @import { Api } from "./api.js" */
/** @import { Action, Context, Field, Filled, Preflight, Values } from "./types.js" */

/**
 * @param {{action: Action, context: Context, api: Api, onDo: (values: Values) => void, onClose: () => void}} props
 */
export function ActionDialog({ action, context, api, onDo, onClose }) {
  const fields = action.fields?.(context) || [];
  const [values, setValues] = useState(() => Object.fromEntries(fields.map((field) => [field.name, field.initial])));
  const [confirmed, setConfirmed] = useState("");
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const preflight = usePreflight(api, action, context, values);
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  const name = context.card.device?.name || context.card.key;
  const danger = action.dangerous?.(context, values) || false;
  const missing = whatIsMissing({ fields, values, danger, confirmed, name, preflight });
  const command = action.command?.(context, values) || null;
  /** @param {Event} event */
  const submit = (event) => {
    event.preventDefault();
    if (!missing) onDo(values);
  };
  return html`<dialog ref=${dialog} aria-labelledby="dialog-heading" onClose=${onClose}>
    <form onSubmit=${submit}>
      <h2 id="dialog-heading">${action.label}: <bdi>${name}</bdi></h2>
      ${fields.map((field) => html`<${FieldView} key=${field.name} field=${field} value=${values[field.name]} onValue=${(/** @type {unknown} */ value) => setValues({ ...values, [field.name]: value })} />`)}
      <div class="words">${action.words(context, values).map((each) => html`<p><bdi>${each}</bdi></p>`)}</div>
      ${preflight && html`<${Checks} preflight=${preflight} context=${context} />`}
      ${command && html`<p class="hint">The same on the command line:</p><${Command} command=${command} />`}
      ${danger &&
      html`<label class="danger">This cannot be done by accident. Type the name <b><bdi>${name}</bdi></b>
        <input name="confirm" autocomplete="off" spellcheck=${false} value=${confirmed} onInput=${typed(setConfirmed)} />
      </label>`}
      <div class="buttons">
        <button type="submit" class=${danger ? "danger" : "primary"} aria-disabled=${missing ? "true" : "false"} aria-describedby="missing">${action.label}</button>
        <button type="button" onClick=${() => dialog.current?.close()}>Cancel</button>
        <span class="why" id="missing">${missing}</span>
      </div>
    </form>
  </dialog>`;
}

/** @param {Filled} filled @returns {string | null} what keeps it from being sent, in words */
function whatIsMissing({ fields, values, danger, confirmed, name, preflight }) {
  const open = fields.find((field) => field.options?.[0]?.[1] === "choose" && !values[field.name]);
  if (open) return `choose a ${open.label.toLowerCase()}`;
  const refused = preflight?.checks.find((check) => check.severity === "error" && !(check.id === "critical" && values.force));
  if (refused) return "a check says no";
  if (danger && confirmed !== name) return "type the name";
  return null;
}

/** @param {{field: Field, value: any, onValue: (value: unknown) => void}} props */
function FieldView({ field, value, onValue }) {
  if (field.kind === "check") {
    return html`<label class="check">
      <input type="checkbox" name=${field.name} checked=${value} onChange=${ticked(onValue)} />
      ${field.label}
    </label>`;
  }
  if (field.kind === "choice") {
    return html`<${Select} label=${field.label} name=${field.name} value=${value} options=${field.options} onChoose=${onValue} />`;
  }
  return html`<label>
    <span>${field.label}</span>
    <input
      name=${field.name}
      type=${field.kind === "number" ? "number" : "text"}
      min="0"
      max=${field.most}
      autocomplete="off"
      placeholder=${field.kind === "tags" ? "team=ml, env=prod" : undefined}
      value=${value}
      onInput=${typed(onValue)}
    />
    ${field.help && html`<small>${field.help}</small>`}
  </label>`;
}

/**
 * @param {Api} api
 * @param {Action} action
 * @param {Context} context
 * @param {Values} values
 * @returns {Preflight | null}
 */
function usePreflight(api, action, context, values) {
  const [preflight, setPreflight] = useState(null);
  const path = action.preflight?.(context, values) || null;
  useEffect(() => {
    if (!path) return undefined;
    const stop = new AbortController();
    api.ask(path, { signal: stop.signal }).then(setPreflight, () => {});
    return () => stop.abort();
  }, [path]);
  return preflight;
}
