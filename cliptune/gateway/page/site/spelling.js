// "Did you mean": a query with words that documents have, in place of some that differ by a letter.
const LEAST = 4, LONG = 8;  // letters from which a word may differ by one, and by two
const WORDS = 20;
const wordsIn = (text) => text.toLowerCase().match(/\p{L}{4,30}/gu) || [];

// How many letters are missing, too many, other ones or swapped (optimal string alignment).
export function distance(a, b) {
  let [older, old] = [[], Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      row[j] = Math.min(old[j] + 1, row[j - 1] + 1, old[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) row[j] = Math.min(row[j], older[j - 2] + 1);
    }
    [older, old] = [old, row];
  }
  return old[b.length];
}

// The query as it was probably meant, or null: `texts` are of documents and their tags. A word
// that some text has, or begins with, stays as it is; the first letter always does.
export function meant(query, texts) {
  const known = new Map();
  for (const text of texts) for (const word of wordsIn(text)) known.set(word, (known.get(word) || 0) + 1);
  const words = [...known.keys()];
  let looked = 0, changed = false;
  const better = query.replace(/\p{L}+/gu, (given) => {
    const word = given.toLowerCase();
    if (word.length < LEAST || word.length > 30 || ++looked > WORDS) return given;
    if (words.some((one) => one.startsWith(word) || word.startsWith(one))) return given;
    const most = word.length < LONG ? 1 : 2;
    const near = words
      .filter((one) => one[0] === word[0] && Math.abs(one.length - word.length) <= most)
      .map((one) => [distance(word, one), -known.get(one), one])
      .filter(([far]) => far <= most)
      .sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    if (!near.length) return given;
    changed = true;
    return near[0][2];
  });
  return changed ? better : null;
}
