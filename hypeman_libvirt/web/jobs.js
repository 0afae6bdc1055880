/** What is being done, and what came of it, with a way back. */

import { html } from "./vendor/preact-htm.js";
import { Elapsed, Icon } from "./parts.js";

/** @import { Api, ApiError } from "./api.js" */
/** @import { Doing, Job, Step } from "./types.js" */

/**
 * @param {Job[]} jobs
 * @param {Step} step
 */
export function reduceJobs(jobs, step) {
  if (step.type === "begin") return [...jobs, step.job].slice(-3);
  if (step.type === "dismiss") return jobs.filter((job) => job.id !== step.id);
  return jobs.map((job) => (job.id === step.id ? { ...job, ...step.change } : job));
}

/**
 * Do what a request asks, and say how it goes.
 * @param {Api} api
 * @param {(step: Step) => void} dispatch
 * @param {Doing} what
 */
export async function run(api, dispatch, { text, request, done, undo }) {
  const id = Date.now() + Math.random();
  dispatch({ type: "begin", job: { id, text, state: "runs", since: Date.now(), undo: null, error: null } });
  try {
    const answer = await api.ask(request.path, { method: request.method, body: request.body });
    dispatch({ type: "end", id, change: { state: "done", text: done(answer), undo: undo?.(answer) || null } });
  } catch (error) {
    dispatch({ type: "end", id, change: { state: "failed", error: /** @type {any} */ (error) } });
  }
}

/** @param {{jobs: Job[], onUndo: (job: Job) => void, onDismiss: (job: Job) => void}} props */
export function Jobs({ jobs, onUndo, onDismiss }) {
  return html`<div class="jobs" role="log" aria-label="What was done" aria-live="polite" tabindex=${jobs.length ? 0 : -1}>
    ${jobs.map((job) => html`<div key=${job.id} class=${`job ${job.state}`} data-state=${job.state}>
      <div class="what">
        ${job.state !== "runs" && html`<${Icon} name=${job.state === "done" ? "ok" : "error"} />`}
        <bdi>${job.text}</bdi>
        ${job.state === "runs" && html`<span aria-hidden="true"> … <${Elapsed} since=${job.since} /></span>`}
        ${job.state === "failed" && html`<span> failed</span>`}
      </div>
      ${job.error && html`<${Failure} error=${job.error} />`}
      ${job.state !== "runs" &&
      html`<div class="buttons">
        ${job.undo && html`<button type="button" class="small" onClick=${() => onUndo(job)}>Undo</button>`}
        <button type="button" class="small" onClick=${() => onDismiss(job)}>Dismiss</button>
      </div>`}
    </div>`)}
  </div>`;
}

/** @param {{error: ApiError}} props */
function Failure({ error }) {
  return html`<p><bdi>${error.message}</bdi></p>
    ${error.details.length > 0 && html`<ul>${error.details.map((each) => html`<li><bdi>${each}</bdi></li>`)}</ul>`}
    <p class="hint">${error.code}${error.requestId && html` · request <bdi>${error.requestId}</bdi> in the log`}</p>`;
}
