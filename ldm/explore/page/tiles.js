// The tiles of all layers: which a view needs, which are here, and which are being fetched.
"use strict";

// The rows or columns of a layer's tiles between two places, in pixels of the finest scale.
ZoomLDM.numbers = function (layer, from, to) {
  const first = Math.floor((from / layer.downsample - layer.offset) / layer.px);
  const last = Math.ceil((to / layer.downsample - layer.offset) / layer.px) - 1;
  return [first, last];
};

// The tiles of a layer in a view {left, top, right, bottom}, nearest to its middle first.
ZoomLDM.tilesIn = function (layer, view) {
  const [firstRow, lastRow] = ZoomLDM.numbers(layer, view.top, view.bottom);
  const [firstCol, lastCol] = ZoomLDM.numbers(layer, view.left, view.right);
  const side = layer.px * layer.downsample;
  const start = layer.offset * layer.downsample;
  const found = [];
  for (let row = firstRow; row <= lastRow; row++) {
    for (let col = firstCol; col <= lastCol; col++) {
      const [top, left] = [start + row * side, start + col * side];
      const distance = Math.hypot(left + side / 2 - (view.left + view.right) / 2, top + side / 2 - (view.top + view.bottom) / 2);
      found.push({ key: `${layer.address}/${row}_${col}.png`, layer, left, top, side, distance });
    }
  }
  return found.sort((a, b) => a.distance - b.distance);
};

ZoomLDM.Tiles = class {
  // onArrival is called after every tile; onFailure with a message.
  constructor({ atOnce, kept, onArrival, onFailure }) {
    Object.assign(this, { atOnce, kept, onArrival, onFailure });
    this.here = new Map(); // key -> {image, since}, those used longest ago first
    this.asked = new Map(); // key -> AbortController
    this.failed = new Map(); // key -> when
    this.wanted = [];
  }

  get(key) {
    const tile = this.here.get(key);
    if (tile) {
      this.here.delete(key);
      this.here.set(key, tile);
    }
    return tile;
  }

  // Fetch these tiles, the first ones first; drop what is no longer among them.
  want(wanted) {
    this.wanted = wanted.filter(({ key }) => !this.here.has(key));
    const keys = new Set(this.wanted.map(({ key }) => key));
    for (const [key, controller] of this.asked) {
      if (!keys.has(key)) {
        controller.abort();
        this.asked.delete(key);
      }
    }
    this.fill();
  }

  get missing() {
    return this.wanted.filter(({ key }) => !this.here.has(key)).length;
  }

  fill() {
    for (const { key } of this.wanted) {
      if (this.asked.size >= this.atOnce) return;
      const waits = performance.now() - (this.failed.get(key) ?? -Infinity) < 3000;
      if (!this.asked.has(key) && !this.here.has(key) && !waits) this.fetch(key);
    }
  }

  async fetch(key) {
    const controller = new AbortController();
    this.asked.set(key, controller);
    try {
      const answer = await fetch(key, { signal: controller.signal });
      if (!answer.ok) throw new Error((await answer.text()) || `status ${answer.status}`);
      const image = await createImageBitmap(await answer.blob());
      this.here.set(key, { image, since: performance.now() });
      this.failed.delete(key);
      this.forget();
    } catch (error) {
      if (controller.signal.aborted) return;
      this.failed.set(key, performance.now());
      setTimeout(() => this.fill(), 3100);
      this.onFailure(error instanceof TypeError ? "The command does not answer; is it still running?" : error.message);
    } finally {
      if (this.asked.get(key) === controller) this.asked.delete(key);
    }
    this.fill();
    this.onArrival();
  }

  forget() {
    for (const [key, { image }] of this.here) {
      if (this.here.size <= this.kept) return;
      image.close();
      this.here.delete(key);
    }
  }
};
