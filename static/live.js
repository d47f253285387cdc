// Keeps the page as the server sees it: swaps parts in place, runs clocks from the server's time, says when it is not live.
(() => {
  const feed = document.body.dataset.feed;
  if (!feed) return;

  const STALE = 10000, SAY_GAP = 5000, SLOWEST = 10000, LOGGED_OUT = 4401;
  const { left, ago, clock } = window.dots;
  let zero = Number(document.body.dataset.clock) - performance.now(); // server's time at performance.now() === 0
  let heard = null, tries = 0, socket = null, over = false, versions = null;
  const now = () => zero + performance.now();

  // -- clocks ---------------------------------------------------------------------------------------------------

  const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  const runClocks = (root = document) => {
    const at = now();
    root.querySelectorAll("[data-now]").forEach((node) => setText(node, clock(at)));
    root.querySelectorAll("[data-until]").forEach((node) => setText(node, left((node.dataset.until - at) / 1000 + 0.5)));
    root.querySelectorAll("[data-since]").forEach((node) => setText(node, left((at - node.dataset.since) / 1000)));
    root.querySelectorAll("[data-ago]").forEach((node) => setText(node, ago((at - node.dataset.ago) / 1000)));
    root.querySelectorAll("[data-bar-until]").forEach((bar) => {
      const { barFrom, barUntil } = bar.dataset;
      const filled = 56 * Math.min(1, Math.max(0, (barUntil - at) / (barUntil - barFrom)));
      const rect = bar.querySelector(".v");
      rect.setAttribute("x", (56 - filled).toFixed(1));
      rect.setAttribute("width", filled.toFixed(1));
    });
  };

  const indicator = document.querySelector("[data-live-state]");
  const showState = () => {
    const silence = heard === null ? 0 : performance.now() - heard;
    const words = indicator.querySelector(".words");
    if (over) return;
    if (heard === null) return; // as the server sent it: "As of ..."
    const stale = silence > STALE;
    indicator.className = stale ? "live stale" : "live";
    setText(words, stale ? `No live updates for ${left(silence / 1000)}` : "Live");
  };

  // -- swapping in place ----------------------------------------------------------------------------------------

  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html.trim();
    return template.content.firstElementChild;
  };
  const keyOf = (node) => node.nodeType === 1 ? node.dataset?.live || node.dataset?.key || null : null;
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  const morph = (from, to) => {
    if (!alike(from, to)) { from.replaceWith(to); return; }
    if (from.nodeType !== 1) { if (from.data !== to.data) from.data = to.data; return; }
    const keep = (from.dataset.keep || "").split(" ");
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && !keep.includes(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value && !keep.includes(name)) from.setAttribute(name, value);
    // What a script fills in is left to the script.
    if ("skip" in from.dataset || "until" in from.dataset || "since" in from.dataset || "ago" in from.dataset) return;
    morphChildren(from, [...to.childNodes]);
  };

  const morphChildren = (parent, wanted) => {
    const keyed = new Map([...parent.childNodes].filter(keyOf).map((node) => [keyOf(node), node]));
    let at = parent.firstChild;
    for (const next of wanted) {
      const known = keyed.get(keyOf(next));
      if (known && known !== at) parent.insertBefore(known, at);
      const old = known || at;
      if (old && alike(old, next)) { at = old.nextSibling; morph(old, next); }
      else parent.insertBefore(next, at);
    }
    while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
  };

  // -- regions: never reordered under a pointer or a focus ---------------------------------------------------------

  const hovers = matchMedia("(hover: hover)").matches;
  const inUse = (node) => (hovers && node.matches(":hover")) || node.contains(document.activeElement);
  const keysIn = (node) => [...node.querySelectorAll("[data-key]")].map(keyOf).join(" ");
  const waiting = new Map();

  const paintRegion = (key, html) => {
    const old = document.querySelector(`[data-live="${CSS.escape(key)}"]`);
    if (!old) return;
    const fresh = parse(html);
    if (inUse(old) && keysIn(old) !== keysIn(fresh)) { waiting.set(key, html); return; }
    waiting.delete(key);
    morph(old, fresh);
    const painted = document.querySelector(`[data-live="${CSS.escape(key)}"]`);
    runClocks(painted);
    painted.dispatchEvent(new CustomEvent("painted", { bubbles: true }));
  };

  // -- lists ----------------------------------------------------------------------------------------------------

  const lists = new Map(); // name -> { order, fresh: key -> html } that waits to be shown

  const isTouched = (body) => {
    const top = body.closest(".scroll").getBoundingClientRect().top;
    return inUse(body) || (body.rows.length > 0 && top < 0);
  };

  const showNews = (name, number) => {
    const button = document.querySelector(`[data-news="${name}"]`);
    if (!button) return;
    button.hidden = number === 0;
    setText(button, `${number} new ${number === 1 ? "row" : "rows"} above. Your place is kept.`);
  };

  const settle = (name) => {
    const body = document.querySelector(`[data-list="${name}"]`), pending = lists.get(name);
    if (!body || !pending) return;
    lists.delete(name);
    showNews(name, 0);
    const known = new Map([...body.rows].map((row) => [keyOf(row), row]));
    const rows = pending.order.map((key) => known.get(key) || (pending.fresh.has(key) ? parse(pending.fresh.get(key)) : null)).filter(Boolean);
    const wanted = new Set(rows);
    [...body.childNodes].forEach((node) => { if (!wanted.has(node)) node.remove(); }); // a list without rows is :empty
    rows.forEach((row, i) => { if (body.rows[i] !== row) body.insertBefore(row, body.rows[i] || null); });
    runClocks(body);
  };

  const paintList = (name, order, parts) => {
    const body = document.querySelector(`[data-list="${name}"]`);
    if (!body) return;
    const pending = lists.get(name) || { order: null, fresh: new Map() };
    const known = new Set([...body.rows].map(keyOf));
    pending.order = order;
    order.filter((key) => !known.has(key) && parts[key]).forEach((key) => pending.fresh.set(key, parts[key]));
    lists.set(name, pending);
    if (!isTouched(body)) { settle(name); return; }
    [...body.rows].forEach((row) => row.classList.toggle("off", !order.includes(keyOf(row)) || row.classList.contains("off")));
    showNews(name, order.filter((key) => !known.has(key)).length);
  };

  const settleUntouched = () => {
    for (const name of [...lists.keys()]) {
      const body = document.querySelector(`[data-list="${name}"]`);
      if (body && !isTouched(body)) settle(name);
    }
    for (const [key, html] of [...waiting]) paintRegion(key, html);
  };
  ["pointerout", "focusout", "scrollend"].forEach((kind) =>
    document.addEventListener(kind, () => { if (lists.size || waiting.size) requestAnimationFrame(settleUntouched); }, { passive: true }));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-news]");
    if (button) settle(button.dataset.news);
  });

  // -- sentences for who listens ----------------------------------------------------------------------------------

  const polite = document.querySelector("[data-say]"), assertive = document.querySelector("[data-shout]");
  let unsaid = [], saidAt = -SAY_GAP;
  const say = () => {
    if (!unsaid.length || performance.now() - saidAt < SAY_GAP) return;
    saidAt = performance.now();
    setText(polite, unsaid.length > 2 ? `${unsaid.length} states changed. ${unsaid.at(-1)}` : unsaid.join(". "));
    unsaid = [];
  };

  // -- an open dialog never acts on an old fact ----------------------------------------------------------------------

  const checkDialog = (current) => {
    const form = document.querySelector("dialog[open] form[data-about]");
    if (!form) return;
    const { about, version } = form.dataset;
    const known = current[about] ?? (versions && about in versions ? "gone" : version);
    if (known === version) return;
    form.querySelector("[data-changed]").hidden = false;
    form.querySelectorAll("button[type=submit]").forEach((button) => { button.disabled = true; });
  };

  // -- news -----------------------------------------------------------------------------------------------------

  const main = () => document.getElementById("main");

  // Another layout of the same page (the first mitigation ever): fetch it and put its content in place of the old one.
  let relaying = false;
  const relay = async () => {
    if (relaying) return;
    relaying = true;
    try { await relayOnce(); } finally { relaying = false; }
  };

  const relayOnce = async () => {
    const answer = await fetch(location.href, { credentials: "same-origin" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
    if (!fresh) return;
    main().replaceWith(document.adoptNode(fresh));
    main().dispatchEvent(new CustomEvent("painted", { bubbles: true }));
    watch();
  };

  const receive = (news) => {
    heard = performance.now();
    tries = 0;
    zero = news.at - heard;
    if (news.layout && main().dataset.layout !== news.layout) { relay(); showState(); return; }
    const parts = news.parts || {};
    Object.entries(parts).forEach(([key, html]) => paintRegion(key, html));
    Object.entries(news.lists || {}).forEach(([name, order]) => paintList(name, order, parts));
    for (const pending of lists.values()) Object.entries(parts).forEach(([key, html]) => { if (pending.fresh.has(key)) pending.fresh.set(key, html); });
    if (news.versions) { checkDialog(news.versions); versions = news.versions; }
    for (const { text, urgent } of news.said || []) {
      if (urgent) setText(assertive, text); else unsaid.push(text);
    }
    showState();
    say();
  };

  // -- the socket ---------------------------------------------------------------------------------------------------

  const watch = () => socket?.readyState === WebSocket.OPEN &&
    socket.send(JSON.stringify({ watch: location.pathname + location.search }));

  const loggedOut = () => {
    over = true;
    indicator.className = "live stale";
    setText(indicator.querySelector(".words"), "Logged out");
    const banner = parse(`<div class="banner bad" role="alert"><span><b>You are logged out.</b> What stands here is old.</span></div>`);
    const link = document.createElement("a");
    link.href = `/login/?next=${encodeURIComponent(location.pathname + location.search)}`;
    link.textContent = "Log in";
    banner.append(link);
    document.querySelector(".column").prepend(banner);
  };

  const connect = () => {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    socket = new WebSocket(`${scheme}//${location.host}${feed}`);
    socket.addEventListener("open", watch);
    socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => {
      if (event.code === LOGGED_OUT) { loggedOut(); return; }
      if (heard === null) heard = performance.now(); // never connected: the silence counts from now
      tries += 1;
      setTimeout(connect, Math.min(SLOWEST, 250 * 2 ** tries) * (0.5 + Math.random() / 2));
    });
  };

  setInterval(() => { runClocks(); showState(); say(); }, 500);
  connect();
})();
