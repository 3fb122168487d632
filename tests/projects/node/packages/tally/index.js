// Counts, by name.
export class Tally {
  #counts = new Map();

  add(name) {
    const count = (this.#counts.get(name) ?? 0) + 1;
    this.#counts.set(name, count);
    return count;
  }
}
