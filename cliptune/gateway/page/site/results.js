// The grid of results: a card for each match, with its score and how many more its group has.
import { $, button, make } from "./dom.js";
import * as pictures from "./pictures.js";
import { PAGE } from "./service.js";
import { number, plain, short, titleOf } from "./words.js";

export function tagList(match, most) {
  const tags = make("div", "tags");
  for (const [name, value] of Object.entries(match.tags || {}).slice(0, most)) {
    const tag = make("span", "", short(plain(value), 60));
    tag.title = short(name + ": " + plain(value), 500);
    tags.append(tag);
  }
  return tags;
}

function score(match) {
  const known = match.relevance !== null && match.relevance !== undefined;
  const node = make("span", "score", known ? Math.round(match.relevance * 100) + " %" : match.score.toFixed(2));
  node.title = known ? "How probably it is what you look for" : "Similarity: at most 1";
  return [make("span", "unseen", known ? "Relevance " : "Similarity "), node];
}

// `open` shows a match, `openGroup` all documents of its group.
function card(match, position, { withScore, open, openGroup }) {
  const item = make("li"), tile = make("div", "tile");
  const title = make("div", "title", short(titleOf(match), 300));
  title.title = short(titleOf(match), 1000);
  pictures.show(tile, match.id, "", position < 12);
  if (withScore) tile.append(...score(match));
  const one = button("card", "", () => open(match));
  one.style.animationDelay = Math.min(position % PAGE, 12) * 22 + "ms";
  one.append(tile, title, tagList(match, 3));
  item.append(one);
  if (match.more) {
    const rest = button("rest", number(match.more) + " more", () => openGroup(match));
    rest.setAttribute("aria-label", number(match.more) + " more like “" + short(titleOf(match), 60) + "”");
    item.append(rest);
  }
  return item;
}

export function add(matches, before, how) {
  $("grid").append(...matches.map((match, i) => card(match, before + i, how)));
}

export function ghosts() {
  $("grid").replaceChildren(...Array.from({ length: 10 }, () => {
    const item = make("li", "ghost", make("div", "tile"), make("i"), make("i"));
    item.setAttribute("aria-hidden", "true");
    return item;
  }));
}

// Go from card to card by an arrow key; whether there was somewhere to go.
export function move(key) {
  const cards = [...$("grid").querySelectorAll(".card")];
  const at = cards.indexOf(document.activeElement);
  if (!cards.length) return false;
  if (at < 0) {
    if (key !== "ArrowDown" || document.activeElement.closest("#facets, #tools")) return false;
    cards[0].focus();
    return true;
  }
  const top = cards[0].getBoundingClientRect().top;
  const columns = Math.max(1, cards.filter((c) => Math.abs(c.getBoundingClientRect().top - top) < 4).length);
  const next = at + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (next < 0) $("query").focus();
  else cards[Math.min(next, cards.length - 1)].focus();
  return true;
}
