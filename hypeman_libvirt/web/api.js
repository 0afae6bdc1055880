/** The public API, and nothing else, as the page calls it. */

/** @import { Host, Options, Session } from "./types.js" */

/** What went wrong with a request, in the service's words. */
export class ApiError extends Error {
  /**
   * @param {number} status HTTP's; 0 where the service could not be reached
   * @param {{code?: string, message?: string, details?: {message: string}[]}} body
   * @param {string | null} requestId
   */
  constructor(status, body, requestId) {
    super(body.message || `the service answered ${status}`);
    this.status = status;
    this.code = body.code || "";
    this.details = (body.details || []).map((each) => each.message);
    this.requestId = requestId;
  }
}

/** Calls the service that serves the page; the token stays in this object. */
export class Api {
  /** @type {string | null} */
  #token = null;

  /** @param {URL} base ends in a slash */
  constructor(base) {
    this.base = base;
  }

  /** @param {string | null} token kept in memory; null for the cookie */
  use(token) {
    this.#token = token;
  }

  /**
   * @param {string} path without the first slash
   * @param {Options} [options]
   * @returns {Promise<Response>} one that says all went well
   */
  async send(path, { method = "GET", body, headers = {}, signal } = {}) {
    /** @type {Record<string, string>} */
    const sent = { ...headers, "X-Hypeman-Page": "1" };
    if (this.#token) sent.Authorization = `Bearer ${this.#token}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const answer = await fetch(new URL(path, this.base), {
      method,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
    }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, { code: "unreachable", message: "the service does not answer" }, null);
    });
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({}));
    throw new ApiError(answer.status, told, answer.headers.get("X-Request-Id"));
  }

  /**
   * @param {string} path
   * @param {Options} [options]
   * @returns {Promise<any>} the answer's JSON; null without a body
   */
  async ask(path, options) {
    const answer = await this.send(path, options);
    return answer.status === 204 ? null : answer.json();
  }

  /** @returns {Promise<Host>} */
  async host() {
    const [topology, devices] = await Promise.all([this.ask("devices/topology"), this.ask("devices")]);
    return { topology, devices };
  }

  /**
   * Sign in; with `keep` the service sets a cookie that this page cannot read.
   * @param {string | null} token null to try the cookie, or a service without tokens
   * @param {boolean} [keep]
   * @returns {Promise<Session>}
   */
  async signIn(token, keep = false) {
    this.use(token);
    const session = await this.ask("ui/session");
    if (token && keep) {
      await this.send("ui/session", { method: "POST" });
      this.use(null);
    }
    return session;
  }

  /** Forget token and cookie. */
  async signOut() {
    await this.send("ui/session", { method: "DELETE" }).catch(() => {});
    this.use(null);
  }
}

/** @param {string} text one path segment */
export const segment = (text) => encodeURIComponent(text);
