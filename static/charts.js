// Stacked allowed, redirected and dropped traffic. Dropped is hatched and redirected striped, so they are told apart
// without colour; a dashed line inside what is dropped says how much of it limits did.
// Markup: in a [data-chart-panel], boxes [data-chart=both|allowed] and the numbers as JSON in [data-chart-data].
(() => {
  if (!window.uPlot) return;
  const { rate, clock } = window.dots;
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const drawn = new Map(); // box -> { plot, zoomed }

  const hatch = () => {
    const ratio = devicePixelRatio || 1, size = Math.round(6 * ratio);
    const tile = Object.assign(document.createElement("canvas"), { width: size, height: size });
    const pen = tile.getContext("2d");
    pen.fillStyle = token("--dropped-fill");
    pen.fillRect(0, 0, size, size);
    pen.strokeStyle = token("--dropped");
    pen.lineWidth = 1.35 * ratio;
    for (const shift of [-size, 0, size]) {
      pen.beginPath(); pen.moveTo(shift - 1, size + 1); pen.lineTo(shift + size + 1, -1); pen.stroke();
    }
    return document.createElement("canvas").getContext("2d").createPattern(tile, "repeat");
  };

  const stripes = () => {
    const ratio = devicePixelRatio || 1, size = Math.round(5 * ratio);
    const tile = Object.assign(document.createElement("canvas"), { width: size, height: size });
    const pen = tile.getContext("2d");
    pen.fillStyle = token("--ink-2");
    pen.fillRect(0, 0, size, Math.max(1, Math.round(ratio)));
    return document.createElement("canvas").getContext("2d").createPattern(tile, "repeat");
  };

  // Sums of columns, null where the first of them is or where `shown` has nothing here nor beside.
  const stack = (columns, shown = null) => columns[0].map((value, i) =>
    value == null || (shown && !(shown[i] || shown[i + 1] || shown[i - 1])) ? null : columns.reduce((sum, one) => sum + (one[i] || 0), 0));

  const numbers = (panel) => {
    const source = panel.querySelector("[data-chart-data]");
    if (!source) return null;
    const data = JSON.parse(source.dataset.chartData);
    const kind = panel.querySelector("[data-unit-set][aria-pressed=true]")?.dataset.unitSet || "bits";
    const { a, d, r = [], l = [] } = data[kind];
    return {
      ...data, kind, a, d, r, l,
      t: a.map((_, i) => data.end - (a.length - 1 - i) * data.step),
      // No line and no hatch where nothing is dropped: nothing is between the two.
      total: stack([a, r, d], d),
      through: stack([a, r]), redirected: stack([a, r], r), limited: stack([a, r, l], l),
    };
  };

  // Runs of null between numbers, as [from, to] on the time axis. Time before the first number is just not there yet.
  const gaps = (data) => {
    const found = [], first = data.a.findIndex((value) => value != null);
    for (let i = first; i < data.a.length && first >= 0; i += 1) {
      if (data.a[i] != null) continue;
      let j = i;
      while (j + 1 < data.a.length && data.a[j + 1] == null) j += 1;
      found.push([data.t[i - 1], data.t[Math.min(j + 1, data.a.length - 1)]]);
      i = j;
    }
    return found;
  };

  const drawGap = (u, [from, to]) => {
    const { ctx, bbox } = u, ratio = uPlot.pxRatio;
    const x0 = u.valToPos(from, "x", true), x1 = u.valToPos(to, "x", true);
    ctx.strokeStyle = token("--control"); ctx.lineWidth = ratio; ctx.setLineDash([2 * ratio, 3 * ratio]);
    ctx.strokeRect(x0, bbox.top + ratio, x1 - x0, bbox.height - 2 * ratio);
    ctx.setLineDash([]);
    if (bbox.height < 120 * ratio || x1 - x0 < 16 * ratio) return;
    ctx.save();
    ctx.fillStyle = token("--ink-2"); ctx.textAlign = "center"; ctx.textBaseline = "middle";
    ctx.translate((x0 + x1) / 2, bbox.top + bbox.height / 2); ctx.rotate(-Math.PI / 2);
    ctx.fillText("no data", 0, 0);
    ctx.restore();
  };

  const drawMark = (u, [at, words]) => {
    const { ctx, bbox } = u, ratio = uPlot.pxRatio, x = Math.round(u.valToPos(at, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) return;
    ctx.strokeStyle = token("--ink"); ctx.lineWidth = ratio; ctx.setLineDash([]);
    ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
    const wide = ctx.measureText(words).width + 10 * ratio;
    const from = x + wide > bbox.left + bbox.width ? x - wide - 2 * ratio : x + 2 * ratio;
    ctx.fillStyle = token("--surface"); ctx.globalAlpha = 0.92;
    ctx.fillRect(from, bbox.top + ratio, wide, 18 * ratio);
    ctx.globalAlpha = 1; ctx.fillStyle = token("--ink");
    ctx.fillText(words, from + 5 * ratio, bbox.top + 4 * ratio);
  };

  const annotations = (box) => ({ hooks: { draw: [(u) => {
    const data = box.numbers, { ctx } = u;
    ctx.save();
    ctx.font = `${12 * uPlot.pxRatio}px ${token("--font")}`;
    ctx.textBaseline = "top"; ctx.textAlign = "left";
    gaps(data).forEach((gap) => drawGap(u, gap));
    if (box.dataset.chart === "both") data.marks.forEach((mark) => drawMark(u, mark));
    ctx.restore();
  }] } });

  const legend = (panel, u) => {
    const data = numbers(panel), put = (name, text) => {
      const node = panel.querySelector(`[data-v="${name}"]`);
      if (node && node.textContent !== text) node.textContent = text;
    };
    if (!data) return;
    const hovered = u?.cursor.idx, i = hovered ?? data.t.length - 1;
    put("t", hovered == null ? "now" : clock(data.t[i] * 1000));
    put("a", rate(data.a[i], data.kind));
    put("d", rate(data.d[i], data.kind));
    put("r", rate(data.r[i], data.kind));
    put("l", rate(data.l[i], data.kind));
  };

  const columns = (box) => {
    const { t, a, total, through, redirected, limited } = box.numbers;
    return box.dataset.chart === "both" ? [t, a, total, through, redirected, limited] : [t, a];
  };
  const short = (text) => text.replace(/\.0+(?= )|(?<=\.\d)0+(?= )/, "");

  const day = 86400;
  const axisTime = (data, at) => {
    const when = new Date(at * 1000);
    if (data.step * data.a.length <= day) return clock(at * 1000).slice(0, 5);
    return `${when.getUTCDate()} ${when.toLocaleString("en", { month: "short", timeZone: "UTC" })}`;
  };

  const draw = (box, panel) => {
    const both = box.dataset.chart === "both";
    const axis = { stroke: token("--ink-2"), font: `12px ${token("--font")}`, grid: { stroke: token("--grid"), width: 1 }, ticks: { show: false } };
    const state = { zoomed: false };
    box.textContent = "";
    state.plot = new uPlot({
      width: box.clientWidth, height: box.clientHeight, padding: [8, 4, both ? 8 : 0, 0],
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false }, sync: { key: panel.dataset.chartPanel } },
      scales: { y: { range: (u) => [0, Math.max(1.12 * Math.max(0, ...u.data.slice(1).flat().filter((v) => v != null)), 1000)] } },
      axes: [
        { ...axis, show: !both, size: 26, gap: 6, space: 80, grid: { show: false }, values: (u, splits) => splits.map((at) => axisTime(box.numbers, at)) },
        { ...axis, size: 74, gap: 8, space: both ? 38 : 20, values: (u, splits) => splits.map((v) => (v === 0 ? "0" : short(rate(v, box.numbers.kind)))) },
      ],
      series: [
        {},
        { label: "Allowed", stroke: token("--allowed"), width: 2, fill: token("--allowed-fill"), points: { show: false } },
        ...(both ? [
          { label: "All", stroke: token("--dropped"), width: 1.5, points: { show: false } },
          { label: "Allowed and redirected", width: 0, points: { show: false } }, // the lower edge of what is dropped
          { label: "Redirected", stroke: token("--ink-2"), width: 1.5, dash: [6, 3], points: { show: false } },
          { label: "Limited", stroke: token("--dropped"), width: 1.5, dash: [4, 4], points: { show: false } },
        ] : []),
      ],
      bands: both ? [{ series: [3, 1], fill: stripes }, { series: [2, 3], fill: hatch }] : [],
      hooks: {
        setCursor: [(u) => legend(panel, u)],
        setSelect: [(u) => { if (u.select.width > 0) state.zoomed = true; }],
      },
      plugins: [annotations(box)],
    }, columns(box), box);
    state.plot.over.addEventListener("dblclick", () => { state.zoomed = false; });
    drawn.set(box, state);
  };

  const paint = (panel, { anew = false } = {}) => {
    const data = numbers(panel);
    if (!data) return;
    panel.querySelectorAll("[data-chart]").forEach((box) => {
      const state = drawn.get(box);
      box.numbers = data;
      if (anew || !state || !box.firstChild) { state?.plot.destroy(); draw(box, panel); }
      else state.plot.setData(columns(box), !state.zoomed);
    });
    legend(panel, drawn.get(panel.querySelector("[data-chart]"))?.plot);
  };

  const panels = (root = document) => [...root.querySelectorAll("[data-chart-panel]"), ...(root.matches?.("[data-chart-panel]") ? [root] : [])];
  const all = () => panels().forEach((panel) => paint(panel, { anew: true }));

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-unit-set]");
    if (!button) return;
    const panel = button.closest("[data-chart-panel]");
    panel.querySelectorAll("[data-unit-set]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    paint(panel, { anew: true });
  });
  document.addEventListener("painted", (event) => panels(event.target).forEach((panel) => paint(panel)));
  document.addEventListener("themechange", all);
  let wait;
  addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(all, 120); });
  document.fonts.ready.then(all);
})();
