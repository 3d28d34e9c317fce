// Two models side by side: the one that is live, and one that is prepared or was live.
import { $, button, make } from "./dom.js";
import * as pictures from "./pictures.js";
import { tagList } from "./results.js";
import { titleOf } from "./words.js";

const COMPARED = 20;  // rows of a side
export const RANKED = 100;  // how far a picture's other rank is looked for

// Which two models there are, the older one first: the one that is live, and that which is
// prepared, or that which was live before it (or, after an undo, after it); null: there is one.
export function sides({ current, next, previous }) {
  const other = next?.complete ? ["next", next] : previous ? ["previous", previous] : null;
  if (!current || !other) return null;
  const [role, meaning] = other[0] === "next" ? ["Prepared", "It goes live by cliptune swap"]
    : previous.number > current.number ? ["Undone", "It was live until cliptune swap --undo"]
      : ["Before", "It was live before; cliptune swap --undo goes back to it"];
  const two = [{ slot: "current", role: "Live now", meaning: "Searches are answered by it", ...current },
    { slot: other[0], role, meaning, ...other[1] }];
  return two.sort((a, b) => a.number - b.number);
}

const day = (text) => new Date(text).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
const moment = (text) => day(text) + ", " + new Date(text).toLocaleTimeString("en-GB");

// What two models are called: their names and dates, and what more it takes to tell them apart.
function called(two) {
  const names = two.map((one) => one.name || "Model without a name");
  const alike = names[0] === names[1];
  const dates = two.map((one) => one.created ? (alike ? moment : day)(one.created) : "");
  return two.map((one, side) => ({ name: names[side], date: dates[side] ? "made " + dates[side]
    : alike || !one.name ? "digest " + one.model_digest.slice(0, 12) : "" }));
}

// How a picture's rank in one list is from that in the other; the lists are of ids, best first.
function movement(rank, other, leaving) {
  if (other < 0) return leaving ? ["gone", "gone"] : ["new", "new"];
  if (other === rank) return ["still", "="];
  const up = leaving ? other < rank : rank < other;
  return up ? ["up", "▲ " + Math.abs(rank - other)] : ["down", "▼ " + Math.abs(rank - other)];
}

function row(match, rank, other, leaving, otherName, open) {
  const tile = make("div", "tile"), node = button("row", "", () => open(match));
  const [kind, said] = movement(rank, other, leaving);
  node.dataset.id = match.id;
  pictures.show(tile, match.id, "", rank < 8);
  const moved = make("span", "moved " + kind, said);
  moved.title = other < 0 ? "Not among the first " + RANKED + " of " + otherName
    : "Number " + (other + 1) + " of " + otherName;
  moved.setAttribute("role", "img");
  moved.setAttribute("aria-label", moved.title);
  node.append(make("span", "rank", rank + 1), tile,
    make("div", "words", make("div", "title", titleOf(match)), tagList(match, 2)), moved);
  // Show where the picture is on the other side.
  const both = (on) => document.querySelectorAll(".row").forEach((one) =>
    one.classList.toggle("same", on && one.dataset.id === match.id));
  for (const name of ["mouseenter", "focus"]) node.addEventListener(name, () => both(true));
  for (const name of ["mouseleave", "blur"]) node.addEventListener(name, () => both(false));
  return make("li", "", node);
}

// Show two models' lists of matches; returns a sentence about how they differ.
export function draw(two, lists, open) {
  const names = called(two);
  const ranks = lists.map((list) => new Map(list.map((match, rank) => [match.id, rank])));
  const rankIn = (side, match) => ranks[side].get(match.id) ?? -1;
  $("sides").replaceChildren(...two.map((one, side) => {
    const role = make("span", "role " + one.slot, one.role), heading = make("h2");
    role.title = one.meaning;
    heading.title = "Model digest " + one.model_digest;
    heading.append(role, make("span", "name", names[side].name), make("small", "", names[side].date));
    const rows = lists[side].slice(0, COMPARED).map((match, rank) =>
      row(match, rank, rankIn(1 - side, match), side === 0, names[1 - side].name, open));
    const section = make("section", "side", heading, make("ol", "", ...rows));
    section.setAttribute("aria-label", one.role + ": " + names[side].name);
    return section;
  }));
  const seen = lists[1].slice(0, COMPARED);
  const kinds = seen.map((match, rank) => movement(rank, rankIn(0, match), false)[0]);
  const count = (kind) => kinds.filter((one) => one === kind).length;
  const kept = seen.filter((m) => { const r = rankIn(0, m); return r >= 0 && r < COMPARED; }).length;
  const moves = ["up", "down", "new"].filter(count).map((kind) => count(kind) + " " + kind);
  return kept + " of the best " + seen.length + " are on both sides. From left to right: " +
    (moves.join(", ") || "no change") + ".";
}
