// What the page says of a search and of what was found.
import { ORDERED } from "./service.js";
import { VARIED, narrowed, seeks } from "./state.js";
import { heading, number, pictures, short, titleOf } from "./words.js";

// "“in green” and like “Rain boots”": what was sought; `like` is the document that it is like.
export function sought(state, like) {
  const words = state.q ? "“" + short(state.q, 78) + "”" : "";
  const beside = state.picture ? "your picture"
    : state.like ? "like “" + short(like ? titleOf(like) : state.like, 60) + "”" : "";
  return [words, beside].filter(Boolean).join(" and ");
}

// "The best 24 of 292 pictures": `total` is null where the server doesn't say.
export function counted(state, count, { total, groups }, best = seeks(state) && !state.sort ? "The best " : "") {
  const all = total === null ? null : Math.max(total, count);
  const passing = narrowed(state) ? (all === 1 ? " that passes the filter" : " that pass the filter") : "";
  if (groups !== null && groups !== undefined) {
    return best + number(count) + " of " + number(Math.max(groups, count)) + ", one per " + heading(state.group) +
      ", of " + pictures(all) + passing;
  }
  if (all === null) return best + pictures(count) + passing;
  if (count < all) return best + number(count) + " of " + pictures(all) + passing;
  return (all === 1 ? "The only picture" : "All " + pictures(all)) + passing;
}

// Of a search with an order: over how many of the nearest it is.
export function ordered(state, { total, groups }) {
  if (!state.sort || state.sort === VARIED) return "";
  const all = groups ?? total;
  return all !== null && all <= ORDERED ? ", in order" : ", the " + ORDERED + " nearest in order";
}

// Why nothing was found, with the name of what can be done about it.
export function nothing(state, total, fits) {
  if (total === 0 && narrowed(state)) return ["Nothing found", "No picture passes this filter.", "unfiltered"];
  if (total !== 0 && fits) {
    return ["Nothing that fits", "No picture is probably what you look for. The nearest ones may still help.", "nearest"];
  }
  if (total !== 0) {
    return ["Nothing else found", "There is no other picture here.", narrowed(state) ? "unfiltered" : null];
  }
  return ["The index is empty", "Add pictures with: cliptune index products.csv", null];
}
