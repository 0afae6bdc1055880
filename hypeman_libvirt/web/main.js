/** Starts the page. */

import { html, render } from "./vendor/preact-htm.js";
import { Api } from "./api.js";
import { App } from "./app.js";

const api = new Api(new URL("../", document.baseURI));
const place = /** @type {HTMLElement} */ (document.getElementById("page"));
render(html`<${App} api=${api} />`, place);
