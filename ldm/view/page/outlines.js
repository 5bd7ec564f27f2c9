// Outlines of classes, drawn over a panel as vectors.
"use strict";

// A path of flat places x, y, ...; a place alone becomes a cross.
ZoomLDM.pathOf = function (paths) {
  const found = new Path2D();
  for (const path of paths) {
    if (path.length === 2) {
      const [x, y] = path;
      found.moveTo(x - 4, y);
      found.lineTo(x + 4, y);
      found.moveTo(x, y - 4);
      found.lineTo(x, y + 4);
      continue;
    }
    found.moveTo(path[0], path[1]);
    for (let k = 2; k < path.length; k += 2) found.lineTo(path[k], path[k + 1]);
  }
  return found;
};

ZoomLDM.OutlineCanvas = class {
  constructor(panel) {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "outlines";
    panel.append(this.canvas);
  }

  // classes: [{path, colour, shown}]; origin: place of the main layer's corner on the screen.
  draw(classes, origin, screenPx) {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    const width = Math.round(clientWidth * ratio);
    const height = Math.round(clientHeight * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const scale = screenPx * ratio;
    context.setTransform(scale, 0, 0, scale, origin.x * ratio, origin.y * ratio);
    context.lineJoin = "round";
    for (const each of classes) {
      if (!each.shown) continue;
      context.strokeStyle = "rgba(255,255,255,0.75)";
      context.lineWidth = 4 / screenPx;
      context.stroke(each.path);
      context.strokeStyle = each.colour;
      context.lineWidth = 2 / screenPx;
      context.stroke(each.path);
    }
  }
};
