// The page: list of images, layers, overlays, keys, and the address that names the place.
"use strict";

(function () {
  const $ = (id) => document.getElementById(id);
  let entries = [];
  let current = -1;
  let group = null;
  let overlaysOn = true;
  const waiting = new Map(); // scripts that are being loaded: address -> resolve

  // Load a data script, whose call gives the answer.
  function load(kind, number) {
    const address = `${kind}/${number}.js`;
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = address;
      script.onload = () => script.remove();
      script.onerror = () => reject(new Error(`${address} could not be loaded; is the command still running?`));
      waiting.set(address, resolve);
      document.head.append(script);
    });
  }
  const answer = (kind) => (number, content) => waiting.get(`${kind}/${number}.js`)?.(content);
  ZoomLDM.entry = answer("entries");
  ZoomLDM.outlines = answer("outlines");

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function tell(message) {
    $("message").hidden = !message;
    $("message").textContent = message;
  }

  // ---- list of images

  function fillList() {
    const list = $("list");
    entries.forEach((entry, number) => {
      const picture = element("img", { loading: "lazy", alt: "", src: `thumbnails/${number}.png` });
      picture.onerror = () => (picture.style.visibility = "hidden");
      const button = element("button", { title: entry.about ? `${entry.name}: ${entry.about}` : entry.name }, picture, element("span", { textContent: entry.name }));
      button.onclick = () => open(number);
      list.append(button);
    });
    document.body.classList.toggle("no-list", entries.length < 2);
    $("toggle-list").hidden = entries.length < 2;
  }

  // ---- one image

  async function open(number, place = {}) {
    if (number === current || number < 0 || number >= entries.length) return;
    current = number;
    [...$("list").children].forEach((button, k) => button.setAttribute("aria-current", k === number));
    $("list").children[number]?.scrollIntoView({ block: "nearest" });
    group?.destroy();
    group = null;
    tell("");
    $("chips").replaceChildren();
    $("legend").hidden = true;
    $("divider").hidden = true;
    $("title").querySelector("h1").textContent = entries[number].name;
    $("title").querySelector("p").textContent = "";
    $("facts").textContent = $("place").textContent = $("magnification").textContent = "";
    document.title = entries[number].name;
    let entry;
    try {
      entry = await load("entries", number);
    } catch (error) {
      return number === current && tell(error.message);
    }
    if (number !== current) return;
    if (entry.error) return tell(entry.error);
    tell(entry.trouble);
    describe(entry);
    const made = new ZoomLDM.PanelGroup($("panels"), number, entry, { onRest: remember, onPoint: point, onFailure: failed });
    group = ZoomLDM.group = made;
    fillChips(entry);
    fillLegend(entry);
    await made.ready;
    if (group !== made) return;
    if (place.show) made.show(place.show);
    made.fit(true);
    if (place.zoom !== undefined) made.goTo({ x: place.x, y: place.y, zoom: place.zoom });
    if (place.swipe) made.setSwipe(true);
    showLayout();
    remember();
    if (entry.outlines.length) fillOutlines(made, entry, await load("outlines", number));
  }

  function describe(entry) {
    const [width, height] = entry.layers[entry.main].levels.at(-1);
    const size = `${ZoomLDM.grouped(width)} × ${ZoomLDM.grouped(height)} px`;
    const known = entry.unit !== "px";
    const unit = entry.unit === "um" ? "µm" : entry.unit;
    const extent = known ? ` · ${ZoomLDM.lengthText(width * entry.per_pixel, entry.unit)} × ${ZoomLDM.lengthText(height * entry.per_pixel, entry.unit)}` : "";
    const resolution = known ? ` · ${Number(entry.per_pixel.toPrecision(4))} ${unit}/px` : "";
    $("facts").textContent = size + extent + resolution;
    $("title").querySelector("p").textContent = entry.about;
  }

  function failed(event) {
    const request = event.tile ? ` (level ${event.tile.level}, column ${event.tile.x}, row ${event.tile.y})` : "";
    tell(`A part of the file cannot be read${request}. It is shown empty, or from a coarser level.`);
  }

  function point(place) {
    if (!group) return;
    const { per_pixel: perPixel, unit } = group.entry;
    const inside = place.x >= 0 && place.y >= 0 && place.x < group.mainWidth && place.y < group.mainHeight;
    if (!inside) return ($("place").textContent = "");
    const pixels = `x ${ZoomLDM.grouped(Math.floor(place.x))}  y ${ZoomLDM.grouped(Math.floor(place.y))}`;
    const lengths = unit === "px" ? "" : `  ·  ${ZoomLDM.lengthText(place.x * perPixel, unit)}, ${ZoomLDM.lengthText(place.y * perPixel, unit)}`;
    $("place").textContent = pixels + lengths;
  }

  // ---- layers side by side

  function fillChips(entry) {
    if (entry.layers.length < 2) return;
    entry.layers.forEach((layer, k) => {
      const button = element("button", { textContent: layer.name, title: `${layer.name} on and off; alone with key ${k + 1}` });
      button.onclick = () => toggle(k);
      $("chips").append(button);
    });
  }

  function toggle(k) {
    const shown = group.shown.map((on, index) => (index === k ? !on : on));
    group.swipe = false;
    group.show(shown.flatMap((on, index) => (on ? [index] : [])));
    showLayout();
    remember();
  }

  function alone(k) {
    if (k >= group.panels.length) return;
    const only = group.shown[k] && group.visible.length === 1;
    group.swipe = false;
    group.show(only ? [] : [k]);
    showLayout();
    remember();
  }

  function showLayout() {
    [...$("chips").children].forEach((button, k) => button.setAttribute("aria-pressed", group.shown[k]));
    $("swipe").hidden = group.panels.length < 2;
    $("swipe").disabled = group.visible.length < 2;
    $("swipe").setAttribute("aria-pressed", group.swipe);
    $("divider").hidden = !group.swipe;
    $("divider").style.left = `${group.divider * 100}%`;
  }

  function swipe() {
    group.setSwipe(!group.swipe);
    showLayout();
    remember();
  }

  $("divider").onpointerdown = (event) => {
    $("divider").setPointerCapture(event.pointerId);
    $("divider").onpointermove = ({ clientX }) => {
      const box = $("panels").getBoundingClientRect();
      group.setDivider((clientX - box.left) / box.width);
      $("divider").style.left = `${group.divider * 100}%`;
    };
  };
  $("divider").onpointerup = () => ($("divider").onpointermove = null);

  // ---- overlays and outlines

  function fillLegend(entry) {
    const legend = $("legend");
    legend.replaceChildren();
    entry.overlays.forEach((layer, k) => {
      const box = element("input", { type: "checkbox" });
      const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.6, title: "opacity" });
      slider.setAttribute("aria-label", `opacity of ${layer.name}`);
      box.onchange = () => group.setOverlay(k, { shown: box.checked });
      slider.oninput = () => group.setOverlay(k, { opacity: Number(slider.value), shown: (box.checked = true) });
      legend.append(element("div", { className: "overlay" }, element("label", {}, box, layer.name), slider));
    });
    legend.hidden = !legend.children.length && !entry.outlines.length;
  }

  function fillOutlines(made, entry, paths) {
    if (group !== made) return;
    const classes = entry.outlines.map((outline, k) => ({ ...outline, path: ZoomLDM.pathOf(paths[k]) }));
    classes.forEach((each) => {
      const box = element("input", { type: "checkbox", checked: each.shown });
      box.onchange = () => {
        each.shown = box.checked;
        made.redraw();
      };
      const swatch = element("i");
      swatch.style.background = each.colour;
      const count = element("small", { textContent: ZoomLDM.grouped(each.count) });
      $("legend").append(element("label", {}, box, swatch, element("span", { textContent: each.name }), count));
    });
    $("legend").hidden = false;
    made.setClasses(overlaysOn ? classes : []);
    made.allClasses = classes;
  }

  function switchOverlays() {
    overlaysOn = !overlaysOn;
    group.setClasses(overlaysOn ? (group.allClasses ?? []) : []);
    $("legend").classList.toggle("off", !overlaysOn);
    group.overlays.forEach((overlay) => overlay.item?.setOpacity(overlaysOn && overlay.shown ? overlay.opacity : 0));
  }

  // ---- the address

  let written = "";
  function remember() {
    if (!group || !group.leader.viewer.isOpen()) return;
    const all = group.shown.every(Boolean);
    const show = all ? undefined : group.shown.flatMap((on, k) => (on ? [k] : [])).join(",");
    const { x, y, zoom } = group.place;
    const image = entries.length > 1 ? entries[current].name : undefined;
    written = ZoomLDM.formatHash({ image, x, y, zoom, show, swipe: group.swipe ? "1" : undefined });
    $("magnification").textContent = `${Number((zoom * 100).toPrecision(3))} %`;
    history.replaceState(null, "", written);
  }

  function follow() {
    if (location.hash === written) return;
    const place = ZoomLDM.parseHash(location.hash);
    const named = entries.findIndex((entry) => entry.name === place.image);
    const number = named < 0 ? Math.max(0, current) : named;
    if (number !== current || !group) return open(number, place);
    group.swipe = false;
    group.show(place.show ?? group.panels.map((_, k) => k));
    group.goTo({ x: place.x, y: place.y, zoom: place.zoom });
    group.setSwipe(place.swipe);
    showLayout();
  }

  // ---- keys and buttons

  const step = () => 0.25 * Math.min($("stage").clientWidth, $("stage").clientHeight);
  const fullscreen = () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
  const toggleList = () => document.body.classList.toggle("no-list");
  const KEYS = {
    ArrowLeft: () => group.panBy(-step(), 0),
    ArrowRight: () => group.panBy(step(), 0),
    ArrowUp: () => group.panBy(0, -step()),
    ArrowDown: () => group.panBy(0, step()),
    "+": () => group.zoomBy(1.5),
    "=": () => group.zoomBy(1.5),
    "-": () => group.zoomBy(1 / 1.5),
    0: () => group.fit(),
    Home: () => group.fit(),
    z: () => group.toPixels(),
    c: () => swipe(),
    o: () => switchOverlays(),
    "[": () => open(current - 1),
    "]": () => open(current + 1),
    l: () => toggleList(),
    f: () => fullscreen(),
    "?": () => $("help").showModal(),
  };
  const ALWAYS = ["[", "]", "l", "f", "?"]; // also where no image is shown

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || event.target.type === "range") return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = /^[1-9]$/.test(key) ? () => alone(Number(key) - 1) : KEYS[key];
    if (!action || (!group && !ALWAYS.includes(key))) return;
    event.preventDefault();
    action();
  });

  $("zoom-in").onclick = KEYS["+"];
  $("zoom-out").onclick = KEYS["-"];
  $("fit").onclick = KEYS[0];
  $("one-to-one").onclick = KEYS.z;
  $("swipe").onclick = swipe;
  $("fullscreen").onclick = fullscreen;
  $("toggle-list").onclick = toggleList;
  $("help-button").onclick = KEYS["?"];
  window.addEventListener("hashchange", follow);
  new ResizeObserver(() => group?.layOut()).observe($("panels"));

  ZoomLDM.start = function (content) {
    entries = content.entries;
    fillList();
    written = null;
    follow();
  };
})();
