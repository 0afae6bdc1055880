/** What the page knows of the host, and how it stays true: events, and a look each few seconds. */

import { useEffect, useReducer, useRef } from "./vendor/preact-htm.js";
import { differences } from "./host.js";
import { follow } from "./stream.js";

/** @import { Api, ApiError } from "./api.js" */
/** @import { Message } from "./stream.js" */
/** @import { DeviceEvent, Host, Live, LiveAction, Session } from "./types.js" */

const MARKED = 8000;
const READY_EACH = 4000;
const LOOK_EACH = 3000;
const LOOK_ALL_THE_SAME = 15000;
const SOON = 120;
const LONGEST_WAIT = 10000;
const LONGEST_TIMER = 2 ** 31 - 1;

/** @type {Live} */
export const NOTHING = { host: null, trouble: null, marks: new Map(), following: false, version: 0, said: "" };

/** @param {Live} live @param {LiveAction} action */
export function reduce(live, action) {
  switch (action.type) {
    case "host":
      return { ...live, host: action.host, trouble: null, marks: marksOf(live, action.host, action.at) };
    case "trouble":
      return { ...live, trouble: { what: action.what, since: live.trouble?.since ?? action.at } };
    case "following":
      return { ...live, following: action.following };
    case "event":
      return { ...live, version: live.version + 1, said: action.said };
    default:
      return { ...live, marks: new Map([...live.marks].filter(([, mark]) => mark.at > action.at - MARKED)) };
  }
}

/**
 * @param {Live} live
 * @param {Host} host
 * @param {number} at
 */
function marksOf(live, host, at) {
  if (!live.host) return live.marks;
  const marks = new Map(live.marks);
  differences(live.host, host).forEach((text, key) => marks.set(key, { text, at }));
  return marks;
}

/** @param {DeviceEvent} event */
export function sentence(event) {
  const name = event.name ? `${event.name} (${event.pci_address})` : event.pci_address;
  const driver = event.type === "bound" || event.type === "unbound" ? `, driver ${event.current_driver || "none"}` : "";
  return `${name} ${event.type}${driver}`;
}

/**
 * Keep looking at the host for as long as somebody is signed in.
 * @param {Api} api
 * @param {Session} session
 * @param {(error: ApiError) => void} onSignedOut the token is not valid any more
 * @returns {[Live, () => Promise<void>]} what is known, and how to look again at once
 */
export function useLive(api, session, onSignedOut) {
  const [live, dispatch] = useReducer(reduce, NOTHING);
  const look = useRef(async () => {});
  useEffect(() => {
    const watcher = new Watcher(api, dispatch, onSignedOut);
    look.current = () => watcher.look();
    watcher.start(session);
    return () => watcher.stop();
  }, [session]);
  return [live, () => look.current()];
}

class Watcher {
  #stopped = new AbortController();
  #looking = false;
  #again = false;
  #last = "";
  #following = false;
  #inTrouble = false;
  #looked = 0;
  /** @type {Set<ReturnType<typeof setTimeout>>} */
  #timers = new Set();

  /**
   * @param {Api} api
   * @param {(action: LiveAction) => void} dispatch
   * @param {(error: ApiError) => void} onSignedOut
   */
  constructor(api, dispatch, onSignedOut) {
    this.api = api;
    this.dispatch = dispatch;
    this.onSignedOut = onSignedOut;
  }

  /** @param {Session} session */
  start({ expires }) {
    this.look();
    const left = expires ? Date.parse(expires) - Date.now() : LONGEST_TIMER;
    this.#later(Math.min(left + 500, LONGEST_TIMER), () => this.look());
    this.#follow(500);
    this.#each(READY_EACH, () => this.#checkReady());
    this.#each(LOOK_EACH, async () => {
      if (!this.#following || Date.now() - this.#looked > LOOK_ALL_THE_SAME) await this.look();
      this.dispatch({ type: "fade", at: Date.now() });
    });
  }

  stop() {
    this.#stopped.abort();
    this.#timers.forEach(clearTimeout);
  }

  /** Look at the host; once more if something happened meanwhile. */
  async look() {
    if (this.#looking) {
      this.#again = true;
      return;
    }
    this.#looking = true;
    try {
      const host = await this.api.host();
      this.#inTrouble = false;
      this.#looked = Date.now();
      if (!this.#stopped.signal.aborted) this.dispatch({ type: "host", host, at: Date.now() });
    } catch (error) {
      this.#fail(error);
    }
    this.#looking = false;
    if (this.#again) {
      this.#again = false;
      await this.look();
    }
  }

  /** @param {number} wait milliseconds before the next try, should this one fail */
  async #follow(wait) {
    let next = Math.min(wait * 2, LONGEST_WAIT);
    try {
      await follow(this.api, {
        last: this.#last,
        signal: this.#stopped.signal,
        onOpen: () => {
          next = 500;
          this.#isFollowing(true);
          this.look();
        },
        onMessage: (message) => this.#hear(message),
      });
    } catch (error) {
      this.#fail(error, "too_many_listeners");
    }
    if (this.#stopped.signal.aborted) return;
    this.#isFollowing(false);
    this.#later(next, () => this.#follow(next));
  }

  /** @param {Message} message */
  #hear(message) {
    this.#last = message.id;
    const event = JSON.parse(message.data);
    this.dispatch({ type: "event", said: sentence(event) });
    this.#later(SOON, () => this.look());
  }

  async #checkReady() {
    try {
      await this.api.ask("ready", { signal: this.#stopped.signal });
      if (this.#inTrouble) await this.look();
    } catch (error) {
      this.#fail(error);
    }
  }

  /**
   * @param {any} error
   * @param {string} [harmless] a code after which the picture is as true as before
   */
  #fail(error, harmless) {
    if (this.#stopped.signal.aborted || error.code === harmless) return;
    if (error.status === 401) {
      this.stop();
      this.onSignedOut(error);
      return;
    }
    this.#inTrouble = true;
    this.dispatch({ type: "trouble", what: error.message, at: Date.now() });
  }

  /** @param {boolean} following */
  #isFollowing(following) {
    this.#following = following;
    this.dispatch({ type: "following", following });
  }

  /**
   * @param {number} wait
   * @param {() => unknown} then
   */
  #later(wait, then) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (!this.#stopped.signal.aborted) then();
    }, wait);
    this.#timers.add(timer);
  }

  /**
   * @param {number} wait
   * @param {() => Promise<void>} then
   */
  #each(wait, then) {
    this.#later(wait, async () => {
      await then();
      this.#each(wait, then);
    });
  }
}
