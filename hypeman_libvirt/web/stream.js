/** Server-Sent Events over fetch, which can send a token; EventSource cannot. */

/** @import { Api } from "./api.js" */

/** @typedef {{id: string, type: string, data: string}} Message */

/**
 * Cut whole messages off what has come in so far.
 *
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
 * @param {string} text
 * @returns {{messages: Message[], rest: string}}
 */
export function cutMessages(text) {
  const blocks = text.split("\n\n");
  const rest = blocks.pop() || "";
  return { messages: blocks.map(readMessage).filter((each) => each.data), rest };
}

/** @param {string} block */
function readMessage(block) {
  const message = { id: "", type: "", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).trimStart()];
    if (name === "id") message.id = value;
    if (name === "event") message.type = value;
    if (name === "data") message.data += value;
  }
  return message;
}

/**
 * Follow events until the stream ends or is given up.
 * @param {Api} api
 * @param {{last: string, signal: AbortSignal, onOpen: () => void, onMessage: (message: Message) => void}} options
 */
export async function follow(api, { last, signal, onOpen, onMessage }) {
  /** @type {Record<string, string>} */
  const headers = last ? { "Last-Event-ID": last } : {};
  const answer = await api.send("devices/events", { headers, signal });
  onOpen();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const { messages, rest } = cutMessages(text + decoder.decode(value, { stream: true }));
    text = rest;
    messages.forEach(onMessage);
  }
}
