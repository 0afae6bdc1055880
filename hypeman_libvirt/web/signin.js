/** Signing in with a token. */

import { html, useState } from "./vendor/preact-htm.js";
import { Command, ticked, typed } from "./parts.js";

/** @param {{said: string | null, onToken: (token: string, keep: boolean) => void}} props */
export function SignIn({ said, onToken }) {
  const [token, setToken] = useState("");
  const [keep, setKeep] = useState(false);
  /** @param {Event} event */
  const submit = (event) => {
    event.preventDefault();
    if (token.trim()) onToken(token.trim(), keep);
  };
  return html`<main class="signin">
    <h1>hypeman-libvirt</h1>
    <form onSubmit=${submit}>
      <p role="alert" class="trouble">${said}</p>
      <label><span>Token</span>
        <input name="token" type="password" autocomplete="off" required value=${token} onInput=${typed(setToken)} />
      </label>
      <label class="check">
        <input name="keep" type="checkbox" checked=${keep} onChange=${ticked(setKeep)} />
        Stay signed in: in a cookie that no script can read
      </label>
      <p class="hint">Otherwise the token is in the memory of this page alone, and gone with it.</p>
      <button type="submit" class="primary">Sign in</button>
    </form>
    <p class="hint">On the host, a token for you:</p>
    <${Command} command="hypeman-libvirt token --user-id $USER --duration 12h" />
  </main>`;
}
