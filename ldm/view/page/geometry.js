// Lengths, numbers and addresses; no document.
"use strict";
var ZoomLDM = {};

// The largest of 1, 2, 5, 10 ... that is at most `length`.
ZoomLDM.roundLength = function (length) {
  const power = Math.pow(10, Math.floor(Math.log10(length)));
  const digit = length / power;
  return (digit >= 5 ? 5 : digit >= 2 ? 2 : 1) * power;
};

// `length` of unit "um", "m" or "px" in words: 2000 um are 2 mm.
ZoomLDM.lengthText = function (length, unit) {
  const steps = { um: [[1e4, 1e4, "cm"], [1e3, 1e3, "mm"], [0, 1, "µm"]], m: [[1e3, 1e3, "km"], [0, 1, "m"]], px: [[0, 1, "px"]] };
  const [, size, name] = steps[unit].find(([least]) => length >= least);
  return `${Number((length / size).toPrecision(3))} ${name}`;
};

// 12345 as 12 345, with narrow spaces.
ZoomLDM.grouped = (number) => String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, " ");

// The place that an address names: {image, x, y, zoom, show}; undefined where it names none.
ZoomLDM.parseHash = function (hash) {
  const told = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (name) => (told.has(name) && Number.isFinite(Number(told.get(name))) ? Number(told.get(name)) : undefined);
  const zoom = number("zoom");
  return {
    image: told.get("image") ?? undefined,
    x: number("x"),
    y: number("y"),
    zoom: zoom > 0 ? zoom : undefined,
    show: told.has("show") ? told.get("show").split(",").map(Number) : undefined,
    swipe: told.get("swipe") === "1",
  };
};

ZoomLDM.formatHash = function (state) {
  const told = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== undefined) told.set(name, typeof value === "number" ? Number(value.toPrecision(7)) : value);
  }
  return "#" + told.toString();
};
