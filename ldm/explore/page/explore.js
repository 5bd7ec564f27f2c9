// The page: the view, what is drawn of it, keys, pointers, and the address that names the place.
"use strict";

(async function () {
  const $ = (id) => document.getElementById(id);
  const LARGEST = 2; // screen pixels of a tile's pixel above which the next finer layer is shown
  const AT_ONCE = 4; // tiles that are asked for at a time
  const KEPT = 1500;
  const FADE_MS = 180;
  const world = await (await fetch("world.json")).json();
  const [coarsest, finest] = [world.layers[0].downsample, world.layers.at(-1).downsample];
  const canvas = $("plane");
  const pen = canvas.getContext("2d", { alpha: false });
  const sheet = document.createElement("canvas");
  const onSheet = sheet.getContext("2d");
  const scaleBar = new ZoomLDM.ScaleBar($("stage"));
  const start = { x: 0, y: 0, zoom: LARGEST / coarsest };
  const [least, most] = [0.5 / coarsest, 8 / finest];
  let view = { ...start }; // x, y: the middle in pixels of the base scale; zoom: screen pixels of one
  let aim = { ...start }; // where the view is going
  let drawing = false;
  const tiles = new ZoomLDM.Tiles({
    atOnce: AT_ONCE,
    kept: KEPT,
    onArrival: () => (tell(""), redraw()),
    onFailure: tell,
  });
  $("title").querySelector("h1").textContent = document.title = world.title;

  function tell(message) {
    $("message").hidden = !message;
    $("message").textContent = message;
  }

  // ---- what is seen

  const ratio = () => window.devicePixelRatio || 1;
  const inLimits = (zoom) => Math.min(most, Math.max(least, zoom));

  function seen({ x, y, zoom }) {
    const [width, height] = [canvas.clientWidth / zoom / 2, canvas.clientHeight / zoom / 2];
    return { left: x - width, right: x + width, top: y - height, bottom: y + height };
  }

  // The layers to show, coarsest first: down to the first whose pixels are not too large, drafts aside.
  function layersAt(zoom) {
    const own = world.layers.slice(1);
    const last = own.findIndex((layer) => zoom * ratio() * layer.downsample <= LARGEST * 1.001);
    return own.slice(0, last < 0 ? own.length : last + 1);
  }

  function request() {
    const area = seen(aim);
    const layers = layersAt(aim.zoom).map((layer) => ZoomLDM.tilesIn(layer, area));
    const bare = layers[0].some(({ key }) => !tiles.here.has(key));
    tiles.want([...(bare ? ZoomLDM.tilesIn(world.layers[0], area) : []), ...layers.flat()]);
  }

  // ---- drawing

  function redraw() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      draw();
    });
  }

  function draw() {
    const moving = approach();
    const [width, height] = [canvas.clientWidth * ratio(), canvas.clientHeight * ratio()].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    pen.fillStyle = getComputedStyle($("stage")).backgroundColor;
    pen.fillRect(0, 0, width, height);
    const area = seen(view);
    const scale = view.zoom * ratio();
    const now = performance.now();
    let fading = false;
    for (const layer of [world.layers[0], ...layersAt(view.zoom)]) fading = drawLayer(layer, area, scale, now) || fading;
    describe();
    if (moving || fading) redraw();
  }

  // The tiles of a layer; whether some of them still fade in. scale: screen pixels of one of the base scale.
  function drawLayer(layer, area, scale, now) {
    const size = scale * layer.downsample;
    const found = ZoomLDM.tilesIn(layer, area).filter((tile) => (tile.here = tiles.get(tile.key)));
    const alpha = ({ since }) => Math.min(1, Math.max(0.05, (now - since) / FADE_MS));
    pen.imageSmoothingEnabled = size < 4;
    pen.imageSmoothingQuality = "high";
    if (size > 1 && size < 4 && found.length) {
      // enlarged as one picture: tile by tile, smoothing would end at each border and show it
      const [left, top] = [Math.min(...found.map((tile) => tile.left)), Math.min(...found.map((tile) => tile.top))];
      const end = (edge) => Math.max(...found.map((tile) => tile[edge] + tile.side));
      const [width, height] = [(end("left") - left) / layer.downsample, (end("top") - top) / layer.downsample];
      Object.assign(sheet, { width, height }); // which clears it
      for (const tile of found) {
        onSheet.globalAlpha = alpha(tile.here);
        onSheet.drawImage(tile.here.image, (tile.left - left) / layer.downsample, (tile.top - top) / layer.downsample);
      }
      pen.drawImage(sheet, (left - area.left) * scale, (top - area.top) * scale, width * size, height * size);
    } else {
      for (const { left, top, side, here } of found) {
        pen.globalAlpha = alpha(here);
        const [x0, x1] = [left, left + side].map((x) => Math.round((x - area.left) * scale));
        const [y0, y1] = [top, top + side].map((y) => Math.round((y - area.top) * scale));
        pen.drawImage(here.image, x0, y0, x1 - x0, y1 - y0);
      }
      pen.globalAlpha = 1;
    }
    return found.some(({ here }) => now - here.since < FADE_MS);
  }

  // One frame's way from the view to its aim; whether more is left.
  function approach() {
    const far = Math.abs(Math.log(aim.zoom / view.zoom)) > 1e-3 || Math.hypot(aim.x - view.x, aim.y - view.y) * view.zoom > 0.5;
    const share = far && !reduced.matches ? 0.3 : 1;
    const zoom = share < 1 ? view.zoom * Math.pow(aim.zoom / view.zoom, share) : aim.zoom;
    // so that the place that does not move under a zoom about a pointer does not move between, either
    const way = aim.zoom === view.zoom ? share : (1 / view.zoom - 1 / zoom) / (1 / view.zoom - 1 / aim.zoom);
    view = { x: view.x + way * (aim.x - view.x), y: view.y + way * (aim.y - view.y), zoom };
    return share < 1;
  }

  function describe() {
    const perPixel = world.per_pixel;
    scaleBar.update(view.zoom, perPixel, world.unit);
    const length = (pixels) => ZoomLDM.lengthText(Math.abs(pixels * perPixel), world.unit);
    $("place").textContent = `${length(view.x)} ${view.x < 0 ? "left" : "right"}, ${length(view.y)} ${view.y < 0 ? "up" : "down"}`;
    const nearest = world.scales.reduce((a, b) => (Math.abs(Math.log(view.zoom * a.downsample)) <= Math.abs(Math.log(view.zoom * b.downsample)) ? a : b));
    const exact = Math.abs(view.zoom * nearest.downsample - 1) < 0.01;
    $("magnification").textContent = exact ? nearest.name : `${Number((view.zoom * nearest.downsample * 100).toPrecision(2))} % of ${nearest.name}`;
    [...$("scales").children].forEach((button, k) => button.setAttribute("aria-pressed", exact && shown[k].name === nearest.name));
    const { missing } = tiles;
    $("work").textContent = missing ? `${missing} tile${missing > 1 ? "s" : ""} to compute` : "";
    $("work").classList.toggle("busy", missing > 0);
  }

  // ---- moving

  let remembering = 0;
  function go(place, immediately = false) {
    aim = { ...aim, ...place, zoom: inLimits(place.zoom ?? aim.zoom) };
    for (const axis of ["x", "y"]) aim[axis] = Math.min(world.farthest, Math.max(-world.farthest, aim[axis]));
    if (immediately) view = { ...aim };
    request();
    redraw();
    clearTimeout(remembering);
    remembering = setTimeout(remember, 250);
  }

  const move = (dx, dy, immediately) => go({ x: aim.x + dx / aim.zoom, y: aim.y + dy / aim.zoom }, immediately);

  // Zoom so that the place under a screen point, counted from the middle, stays.
  function zoomBy(factor, dx = 0, dy = 0) {
    const zoom = inLimits(aim.zoom * factor);
    go({ x: aim.x + dx / aim.zoom - dx / zoom, y: aim.y + dy / aim.zoom - dy / zoom, zoom });
  }

  let written = "";
  function remember() {
    const tenth = (pixels) => String(Math.round(pixels * 10) / 10);
    written = ZoomLDM.formatHash({ x: tenth(aim.x), y: tenth(aim.y), zoom: aim.zoom });
    history.replaceState(null, "", written);
  }

  function follow() {
    if (location.hash === written) return;
    const { x, y, zoom } = ZoomLDM.parseHash(location.hash);
    go({ x: x ?? start.x, y: y ?? start.y, zoom: zoom ?? start.zoom }, true);
  }

  // ---- pointers, keys and buttons

  const reduced = matchMedia("(prefers-reduced-motion: reduce)");
  const pointers = new Map();
  canvas.onpointerdown = (event) => {
    pointers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
  };
  canvas.onpointermove = (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const other = [...pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
    if (other) {
      const apart = (at) => Math.hypot(at.clientX - other.clientX, at.clientY - other.clientY);
      const box = canvas.getBoundingClientRect();
      const [dx, dy] = [(event.clientX + other.clientX) / 2 - box.left - box.width / 2, (event.clientY + other.clientY) / 2 - box.top - box.height / 2];
      zoomBy(apart(event) / Math.max(1, apart(before)), dx, dy);
    }
    const share = other ? 0.5 : 1;
    move((before.clientX - event.clientX) * share, (before.clientY - event.clientY) * share, true);
    pointers.set(event.pointerId, event);
  };
  canvas.onpointerup = canvas.onpointercancel = (event) => pointers.delete(event.pointerId);
  canvas.ondblclick = (event) => wheel(event, 2);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode ? 20 : 1;
    wheel(event, Math.exp(-Math.max(-120, Math.min(120, event.deltaY * lines)) * 0.003));
  }, { passive: false });
  function wheel(event, factor) {
    const box = canvas.getBoundingClientRect();
    zoomBy(factor, event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
  }

  const shown = [...world.scales].reverse();
  const toScale = (scale) => scale && go({ zoom: 1 / scale.downsample / ratio() });
  shown.forEach((scale) => {
    const button = Object.assign(document.createElement("button"), { textContent: scale.name, title: `One screen pixel per pixel at ${scale.name}` });
    button.onclick = () => toScale(scale);
    $("scales").append(button);
  });
  const step = () => 0.25 * Math.min(canvas.clientWidth, canvas.clientHeight);
  const fullscreen = () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
  const KEYS = {
    ArrowLeft: () => move(-step(), 0),
    ArrowRight: () => move(step(), 0),
    ArrowUp: () => move(0, -step()),
    ArrowDown: () => move(0, step()),
    "+": () => zoomBy(1.5),
    "=": () => zoomBy(1.5),
    "-": () => zoomBy(1 / 1.5),
    0: () => go(start),
    Home: () => go(start),
    f: () => fullscreen(),
    "?": () => $("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = /^[1-9]$/.test(key) ? () => toScale(world.scales[Number(key) - 1]) : KEYS[key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  $("zoom-in").onclick = KEYS["+"];
  $("zoom-out").onclick = KEYS["-"];
  $("home").onclick = KEYS[0];
  $("fullscreen").onclick = fullscreen;
  $("help-button").onclick = KEYS["?"];
  window.addEventListener("hashchange", follow);
  new ResizeObserver(() => (request(), redraw())).observe(canvas);
  written = null;
  follow();
})();
