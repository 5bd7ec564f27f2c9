// A bar of a round length in a panel's corner.
"use strict";

ZoomLDM.ScaleBar = class {
  constructor(panel) {
    this.element = document.createElement("div");
    this.element.className = "scale-bar";
    panel.append(this.element);
  }

  // screenPx: screen pixels per pixel of the main layer, one of which is perPixel of unit.
  update(screenPx, perPixel, unit) {
    const length = ZoomLDM.roundLength((140 / screenPx) * perPixel);
    this.element.style.width = `${(length / perPixel) * screenPx}px`;
    this.element.textContent = ZoomLDM.lengthText(length, unit);
  }
};
