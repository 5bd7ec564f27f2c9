// Layers side by side: one OpenSeadragon viewer each, all showing the same place.
"use strict";

ZoomLDM.Panel = class {
  // layer: {name, about, levels, tile, overlap}.
  constructor(parent, layer, group) {
    this.layer = layer;
    this.group = group;
    this.element = document.createElement("section");
    this.element.className = "panel";
    this.element.setAttribute("aria-label", layer.name);
    this.view = document.createElement("div");
    this.view.className = "view";
    this.element.append(this.view);
    parent.append(this.element);
  }

  // Once the panel has its size. address: of the tiles; navigator: whether it has the small overview.
  open(address, navigator) {
    const { group, layer } = this;
    this.viewer = OpenSeadragon({
      element: this.view,
      tileSources: [ZoomLDM.tileSource(layer, address)],
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: navigator,
      navigatorPosition: "BOTTOM_RIGHT",
      navigatorSizeRatio: 0.14,
      navigatorAutoFade: false,
      animationTime: 0.35,
      springStiffness: 9,
      blendTime: 0,
      zoomPerScroll: 1.35,
      visibilityRatio: 0.25,
      minZoomImageRatio: 0.5,
      maxZoomPixelRatio: (16 * group.mainWidth) / layer.levels.at(-1)[0],
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      imageLoaderLimit: 8,
    });
    this.outlines = new ZoomLDM.OutlineCanvas(this.element);
    this.scaleBar = new ZoomLDM.ScaleBar(this.element);
    const label = document.createElement("h2");
    label.textContent = layer.name;
    if (layer.about) label.title = layer.about;
    this.element.append(label);
    this.viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = true));
    this.viewer.addHandler("tile-load-failed", (event) => group.onFailure(event));
    this.viewer.addHandler("update-viewport", () => group.drawn(this));
    this.viewer.addHandler("after-resize", () => (this.resized = true));
    this.viewer.addHandler("viewport-change", () => this.changed());
    this.viewer.addHandler("animation-finish", () => group.onRest());
    for (const kind of ["pointerenter", "pointerdown", "wheel"]) {
      this.element.addEventListener(kind, () => group.lead(this), { passive: true, capture: true });
    }
    this.element.addEventListener("pointermove", (event) => group.onPoint(this.placeOf(event)));
  }

  // Screen pixels per pixel of the main layer.
  get screenPx() {
    const { viewport } = this.viewer;
    return (viewport.getZoom(true) * viewport.getContainerSize().x) / this.group.mainWidth;
  }

  // The place of the main layer under a pointer.
  placeOf(event) {
    const box = this.element.getBoundingClientRect();
    const point = new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top);
    return this.viewer.viewport.pointFromPixel(point, true).times(this.group.mainWidth);
  }

  // The user moved it, or its size changed, which leaves place and size of pixels as they were.
  changed() {
    if (this.resized) this.goTo(this.group.place);
    else this.group.moved(this);
    this.resized = false;
  }

  // Go to a place {x, y, zoom} of the main layer.
  goTo({ x, y, zoom }, immediately = true) {
    const { viewport } = this.viewer;
    const width = this.group.mainWidth;
    viewport.zoomTo((zoom * width) / viewport.getContainerSize().x, null, immediately);
    viewport.panTo(new OpenSeadragon.Point(x / width, y / width), immediately);
  }

  get place() {
    const centre = this.viewer.viewport.getCenter(true).times(this.group.mainWidth);
    return { x: centre.x, y: centre.y, zoom: this.screenPx };
  }
};

// Tiles as site.py lays them out.
ZoomLDM.tileSource = function (layer, address) {
  const [width, height] = layer.levels.at(-1);
  return {
    width,
    height,
    tileSize: layer.tile,
    tileOverlap: layer.overlap,
    minLevel: 0,
    maxLevel: layer.levels.length - 1,
    getTileUrl: (level, x, y) => `${address}/${level}/${x}_${y}.png`,
  };
};

ZoomLDM.PanelGroup = class {
  // entry: as entries.py describes it; handlers: {onRest, onPoint, onFailure}.
  constructor(parent, number, entry, handlers) {
    Object.assign(this, handlers);
    this.parent = parent;
    this.entry = entry;
    this.panels = [];
    this.classes = [];
    [this.mainWidth, this.mainHeight] = entry.layers[entry.main].levels.at(-1);
    this.panels = entry.layers.map((layer) => new ZoomLDM.Panel(parent, layer, this));
    this.leader = this.panels[entry.main];
    this.place = { x: this.mainWidth / 2, y: this.mainHeight / 2, zoom: 1 }; // what all panels show
    this.overlays = entry.overlays.map((layer, k) => ({ layer, opacity: 0.6, shown: false, address: `tiles/${number}/${entry.layers.length + k}` }));
    this.shown = this.panels.map(() => true);
    this.swipe = false;
    this.layOut();
    this.panels.forEach((panel, k) => panel.open(`tiles/${number}/${k}`, k === 0));
  }

  get ready() {
    return Promise.all(this.panels.map(({ viewer }) => (viewer.isOpen() ? null : new Promise((resolve) => viewer.addOnceHandler("open", resolve)))));
  }

  get visible() {
    return this.panels.filter((_, k) => this.shown[k]);
  }

  lead(panel) {
    this.leader = panel;
  }

  moved(panel) {
    if (panel !== this.leader || !panel.viewer.isOpen()) return;
    this.place = panel.place;
    for (const other of this.visible) if (other !== panel && other.viewer.isOpen()) other.goTo(this.place);
  }

  // After each change of a panel's view: scale bar, outlines, and sharp pixels where they are enlarged.
  drawn(panel) {
    if (!panel.viewer.isOpen() || !panel.viewer.world.getItemCount()) return;
    const { screenPx } = panel;
    panel.scaleBar.update(screenPx, this.entry.per_pixel, this.entry.unit);
    const origin = panel.viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    panel.outlines.draw(this.classes, origin, screenPx);
    const own = screenPx * (this.mainWidth / panel.layer.levels.at(-1)[0]) * (window.devicePixelRatio || 1);
    const smooth = own < 0.999;
    if (panel.smooth !== smooth) {
      panel.smooth = smooth;
      panel.viewer.drawer.setImageSmoothingEnabled(smooth);
    }
  }

  // Go to a place of the main layer; what is left undefined, or far from the image, stays.
  goTo(place, immediately = true) {
    const limits = { x: [-this.mainWidth, 2 * this.mainWidth], y: [-this.mainHeight, 2 * this.mainHeight], zoom: [1e-6, 64] };
    const given = Object.entries(place).filter(([name, value]) => value >= limits[name][0] && value <= limits[name][1]);
    this.leader.goTo({ ...this.place, ...Object.fromEntries(given) }, immediately);
    this.moved(this.leader);
  }

  // One screen pixel per pixel of the main layer, pixels exactly on pixels.
  toPixels() {
    const ratio = window.devicePixelRatio || 1;
    const size = this.leader.viewer.viewport.getContainerSize().times(ratio / 2);
    const onPixel = (centre, half) => Math.round(centre - half) + half;
    this.goTo({ x: onPixel(this.place.x, size.x), y: onPixel(this.place.y, size.y), zoom: 1 / ratio });
  }

  zoomBy(factor) {
    this.leader.viewer.viewport.zoomBy(factor).applyConstraints();
  }

  panBy(dx, dy) {
    const { viewport } = this.leader.viewer;
    viewport.panBy(viewport.deltaPointsFromPixels(new OpenSeadragon.Point(dx, dy))).applyConstraints();
  }

  fit(immediately = false) {
    this.leader.viewer.viewport.goHome(immediately);
    if (immediately) this.moved(this.leader);
  }

  show(shown) {
    this.shown = this.panels.map((_, k) => shown.includes(k));
    if (!this.shown.some(Boolean)) this.shown.fill(true);
    this.layOut();
  }

  setSwipe(on) {
    this.swipe = on && this.visible.length > 1;
    this.layOut();
  }

  // Panels of equal size that fill the stage as a grid of the fitting shape, or two on each other. Those that are not
  // shown keep a size, which OpenSeadragon needs.
  layOut() {
    const visible = this.swipe ? this.visible.slice(0, 2) : this.visible;
    const box = this.parent.getBoundingClientRect();
    const aspect = this.mainWidth / this.mainHeight;
    const columns = this.swipe ? 1 : ZoomLDM.bestColumns(visible.length, box.width, box.height, aspect);
    this.parent.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    this.parent.classList.toggle("swipe", this.swipe);
    this.parent.classList.toggle("alone", this.panels.length === 1);
    this.panels.forEach((panel) => {
      panel.element.classList.toggle("away", !visible.includes(panel));
      panel.element.style.clipPath = "";
      panel.element.classList.toggle("over", this.swipe && panel === visible[1]);
    });
    if (!visible.includes(this.leader)) this.leader = visible[0];
    for (const panel of visible) if (panel.viewer?.isOpen()) panel.goTo(this.place);
    this.swipePanel = this.swipe ? visible[1] : null;
    this.setDivider(this.divider ?? 0.5);
  }

  // Where the divider of two panels lies, as a share of the width.
  setDivider(share) {
    this.divider = Math.min(1, Math.max(0, share));
    if (this.swipePanel) this.swipePanel.element.style.clipPath = `inset(0 0 0 ${this.divider * 100}%)`;
  }

  setOverlay(k, { shown, opacity }) {
    const overlay = this.overlays[k];
    Object.assign(overlay, { shown: shown ?? overlay.shown, opacity: opacity ?? overlay.opacity });
    const visible = overlay.shown ? overlay.opacity : 0;
    if (overlay.item) overlay.item.setOpacity(visible);
    else if (overlay.shown && !overlay.asked) {
      overlay.asked = true;
      this.panels[this.entry.main].viewer.addTiledImage({
        tileSource: ZoomLDM.tileSource(overlay.layer, overlay.address),
        width: 1,
        opacity: visible,
        success: ({ item }) => {
          overlay.item = item;
          item.setOpacity(overlay.shown ? overlay.opacity : 0);
        },
      });
    }
  }

  setClasses(classes) {
    this.classes = classes;
    this.redraw();
  }

  redraw() {
    this.visible.forEach((panel) => this.drawn(panel));
  }

  destroy() {
    this.panels.forEach(({ viewer }) => viewer.destroy());
    this.parent.replaceChildren();
  }
};

// Columns of `count` equal panels in which an image of this aspect is shown largest.
ZoomLDM.bestColumns = function (count, width, height, aspect) {
  let best = 1;
  let largest = 0;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const shown = Math.min(width / columns, (height / rows) * aspect);
    if (shown > largest * 1.02) [best, largest] = [columns, shown];
  }
  return best;
};
