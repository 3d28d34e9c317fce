// Calls of the service, and what goes wrong with them in people's words.
import { EVEN, VARIED, filterOf, seeks, textAlone } from "./state.js";

export const PAGE = 24;
export const ORDERED = 4 * PAGE;  // the nearest that an order is of: further ones are less and less what is sought
// All addresses are below the page's own: it may stand under a path of another site.
const HOME = location.origin + location.pathname.replace(/\/?$/, "/");
const at = (path) => new URL(path, HOME);
// Kept until the tab is closed. Pictures can't be asked for with a key by an <img> itself.
let key = sessionStorage.getItem("cliptune-key") || "";
const withKey = (headers) => key ? { ...headers, Authorization: "Bearer " + key } : headers;

export const hasKey = () => Boolean(key);
export function useKey(given) {
  key = given;
  sessionStorage.setItem("cliptune-key", key);
}

// A title, a sentence, and the name of the one thing that people can do about it.
export class Failure extends Error {
  constructor(title, text, action = null, isCode = false) {
    super(text);
    Object.assign(this, { title, action, isCode });
  }
}

// The server counts a request's documents and their parts; people know them by other names.
function named(message, subject) {
  const text = message.replace(/\bdocument 0(?: \(id (?:'[^']*'|"[^"]*"|[^)]*)\))?(?:: part \d+)?/gi, subject);
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…:)]$/.test(text) ? "" : ".");
}

export const otherModel = () => new Failure("Another model's index", "The pictures were indexed by another model " +
  "than the one that is served. Serve that one, or clear the index and add the pictures again: " +
  "cliptune index products.csv");

function failure(status, error) {
  const text = error?.message || "The server answered " + status + ".";
  const told = named(text, error?.type === "BadImage" ? "the picture you chose" : "your search");
  if (status === 401) return new Failure("An API key is needed", "This server answers those who have a key.", "key");
  if (status === 403) return new Failure("That isn't allowed", told, key ? "key" : null);
  if (error?.type === "BadFilter") return new Failure("The filter can't be read", text, null, true);
  if (error?.type === "ModelMismatch") return otherModel();
  if (error?.type === "BadImage") return new Failure("That picture can't be read", told, "choose");
  if (status === 429 || status === 503) return new Failure("The server is busy", told, "again");
  if (status >= 500) return new Failure("The server has a problem", told, "again");
  return new Failure("That didn't work", told, "plain");
}

export async function call(path, body, signal) {
  let response, answer;
  try {
    response = await fetch(at(path), body === undefined ? { headers: withKey({}), signal } : {
      method: "POST", headers: withKey({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal });
    answer = await response.json().catch((error) => {
      if (error.name === "AbortError") throw error;
      return null;
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server can't be reached", "Is it running? Your search is kept.", "again");
  }
  if (!response.ok) throw Object.assign(failure(response.status, answer?.error), { status: response.status });
  if (answer === null) throw new Failure("The server has a problem", "Its answer can't be read.", "again");
  return answer;
}

// Below the page's own address, whatever address answers name: a key is sent to this server alone.
export async function pictureSource(id) {
  const url = at("pictures/" + encodeURIComponent(id));
  if (!key) return url.href;
  const response = await fetch(url, { headers: withKey({}) });
  if (!response.ok) throw new Error("no picture");
  return URL.createObjectURL(await response.blob());
}

// What is sought, as the service has it: one text or picture, or parts with weights.
function query(state, image) {
  if (!seeks(state)) return { text: "a photo" };
  if (textAlone(state)) return { text: state.q };
  if (image && !state.q && !state.like) return { uri: image };
  const parts = [];
  if (state.like) parts.push({ like: state.like });
  if (image) parts.push({ uri: image });
  if (state.q) parts.push({ text: state.q, weight: state.weight || EVEN });
  return { parts };
}

// What goes with words alone, or not with groups, isn't asked for with others.
export const wordsCount = (state) => Boolean(state.q) && !state.group && state.sort !== VARIED;

// The matches, how many documents or groups the filters leave, and what the server warns of.
export async function find(state, image, { offset = 0, limit = PAGE, model = null, signal } = {}) {
  const parameters = { limit, offset, include_total: true };
  const filter = filterOf(state);
  if (filter) parameters.filter = filter;
  if (model) parameters.model = model;
  else {
    if (state.group) parameters.group_by = state.group;
    if (state.sort === VARIED) parameters.diversity = 0.3;
    else if (state.sort) parameters.sort_by = state.sort;
    if (state.sort) parameters.candidates = ORDERED;
    if (state.words && wordsCount(state)) parameters.hybrid = true;
    if (state.fit && textAlone(state)) parameters.min_relevance = state.fit;
  }
  // What nobody typed is no search to learn from, and some people don't want theirs to be one.
  if (!seeks(state) || model || navigator.globalPrivacyControl) parameters.record = false;
  const answer = await call("search", { data: [query(state, image)], parameters }, signal);
  const { matches, total, groups, search_id } = answer.data[0];
  for (const match of matches) match.search_id = search_id;
  return { matches, total: total ?? null, groups: groups ?? null, warnings: answer.warnings || [] };
}

// How often tags' values occur in what the filters leave: `wanted` as the service's `facets`.
export async function count(state, wanted, without, signal) {
  const parameters = { limit: 1, record: false, facets: wanted };
  const filter = filterOf(state, without);
  if (filter) parameters.filter = filter;
  return (await call("search", { data: [{ text: "a photo" }], parameters }, signal)).facets || {};
}

// A stored document with its text and tags; null: it isn't there.
export async function documentOf(id, signal) {
  const [found] = (await call("get", { data: [{ id }] }, signal)).data;
  return found || null;
}

// Somebody chose a match: told where the server records searches, and nobody waits for it.
export function chose(match) {
  if (!match.search_id) return;
  const body = JSON.stringify({ search_id: match.search_id, event: "click", ids: [match.id] });
  fetch(at("feedback"), { method: "POST", keepalive: true, body,
    headers: withKey({ "Content-Type": "application/json" }) }).catch(() => {});
}
