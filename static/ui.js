// Theme switch, dialogs, copy buttons, the search key. Works on markup the server sent; every page reads without it.
(() => {
  const root = document.documentElement;
  const dialog = document.getElementById("dialog");
  let opener = null;

  const showTheme = () => {
    const word = root.dataset.theme || "system";
    document.querySelectorAll("[data-theme-set]").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.themeSet === word)));
  };

  const setTheme = (word) => {
    if (word === "system") { delete root.dataset.theme; localStorage.removeItem("theme"); }
    else { root.dataset.theme = word; localStorage.setItem("theme", word); }
    showTheme();
    document.dispatchEvent(new Event("themechange"));
  };

  // Asks for the question that a link leads to and shows it over the page; on any trouble the link is simply followed.
  const ask = async (link) => {
    try {
      const answer = await fetch(`${link.href}?dialog=1`, { credentials: "same-origin" });
      if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
      const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
      dialog.replaceChildren(...parsed.body.childNodes);
    } catch {
      location.assign(link.href);
      return;
    }
    if (!dialog.open) { opener = link; dialog.showModal(); }
    dialog.querySelector("[autofocus]")?.focus();
  };

  const copy = async (button) => {
    const words = button.querySelector("span");
    try {
      await navigator.clipboard.writeText(button.parentElement.querySelector(".code").textContent);
      words.textContent = "Copied";
    } catch {
      words.textContent = "Select it by hand";
    }
  };

  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest(selector);
    if (at("[data-theme-set]")) setTheme(at("[data-theme-set]").dataset.themeSet);
    if (at("[data-open]")) document.getElementById(at("[data-open]").dataset.open)?.showModal();
    if (at("[data-copy]")) copy(at("[data-copy]"));
    if (at("[data-close]") && at("dialog")) { event.preventDefault(); at("dialog").close(); }
    const link = at("a[data-dialog]");
    if (link && dialog && !event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); ask(link); }
  });

  dialog?.addEventListener("close", () => {
    dialog.replaceChildren();
    const row = opener && !opener.isConnected && document.querySelector(`a[data-dialog="${opener.dataset.dialog}"]`);
    (row || opener)?.focus();
    opener = null;
  });

  document.addEventListener("submit", (event) => {
    const button = event.target.querySelector("button[type=submit]");
    if (event.target.method === "post" && button) button.setAttribute("aria-busy", "true");
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    const box = document.querySelector("[data-jump]");
    if (box?.checkVisibility()) box.focus();
    else document.getElementById("more")?.showModal();
  });

  // The local time is a tooltip, never a replacement.
  document.addEventListener("pointerover", (event) => {
    const time = event.target.closest?.("time[datetime]");
    if (time && !time.title) time.title = `${new Date(time.dateTime).toLocaleString()} on this device`;
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    document.dispatchEvent(new Event("themechange")));
  showTheme();
})();
