/** Two hosts, one module: `mount` for a page, `render` for a widget. */
import { render as draw } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { App } from "./app.tsx";
import { open, UnreadableData } from "./data/open.ts";
import type { Payload } from "./data/schema.ts";
import { fromHash, toHash } from "./state/hash.ts";
import type { State } from "./state/state.ts";
import { Context, createStore, type Store } from "./state/store.ts";
import css from "./styles.css";
import { palette, type ThemeName } from "./ui/theme.ts";

interface AnyModel { get(name: string): unknown; on?(event: string, listener: () => void): void; off?(event: string, listener: () => void): void }

/** Draws the explorer into an element of a page; state lives in the address after `#`. Returns a function that takes it away. */
export function mount(el: HTMLElement, payload: unknown): () => void {
  return show(el, payload, location.protocol !== "about:");
}

function render({ model, el }: { model: AnyModel; el: HTMLElement }): () => void {
  let away = show(el, model.get("payload"), false);
  const again = (): void => {
    away();
    away = show(el, model.get("payload"), false);
  };
  model.on?.("change:payload", again);
  return () => {
    model.off?.("change:payload", again);
    away();
  };
}

export default { render };

function show(el: HTMLElement, data: unknown, linked: boolean): () => void {
  const root = document.createElement("div");
  root.className = "cl-explorer";
  const style = document.createElement("style");
  style.textContent = css;
  el.replaceChildren(style, root);
  const stop = watchSize(root);
  try {
    const payload = open(data);
    draw(<Root payload={payload} root={root} linked={linked} />, root);
  } catch (error) {
    if (!(error instanceof UnreadableData)) throw error;
    const said = document.createElement("p");
    said.className = "clx-refused";
    said.setAttribute("role", "alert");
    said.textContent = error.message;
    root.append(said);
  }
  return () => {
    stop();
    draw(null, root);
    el.replaceChildren();
  };
}

/** A class of width for the style sheet: a container query would keep a maximised panel inside the container. */
function watchSize(root: HTMLElement): () => void {
  const measure = (): void => { const width = root.clientWidth; if (width > 0) root.dataset.size = width > 980 ? "wide" : width > 560 ? "tablet" : "phone"; };
  measure();
  const observer = new ResizeObserver(measure);
  observer.observe(root);
  return () => observer.disconnect();
}

/** JupyterLab says on its body whether its theme is dark; elsewhere the system's preference counts. */
function surroundings(): ThemeName {
  const jupyter = document.body.dataset.jpThemeLight;
  if (jupyter) return jupyter === "true" ? "light" : "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function useTheme(store: Store): ThemeName {
  const [around, setAround] = useState(surroundings);
  const [choice, setChoice] = useState(store.get().theme);
  useEffect(() => store.subscribe(() => setChoice(store.get().theme)), [store]);
  useEffect(() => {
    const changed = (): void => setAround(surroundings());
    const watch = matchMedia("(prefers-color-scheme: dark)"), observer = new MutationObserver(changed);
    watch.addEventListener("change", changed);
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    return () => { watch.removeEventListener("change", changed); observer.disconnect(); };
  }, []);
  return choice === "auto" ? around : choice;
}

function Root({ payload, root, linked }: { payload: Payload; root: HTMLElement; linked: boolean }) {
  const store = useMemo(() => createStore(payload, linked ? fromHash(location.hash) : {}), [payload]);
  const theme = useTheme(store);
  const written = useRef("");
  useEffect(() => {
    root.dataset.theme = theme;
    if (linked) document.documentElement.style.background = palette(theme).ground;
    root.style.colorScheme = theme;
  }, [theme]);
  useEffect(() => {
    if (!linked) return;
    const write = (): void => {
      const hash = toHash(store.get(), store.start);
      if (hash === written.current) return;
      written.current = hash;
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    };
    const read = (): void => { if (location.hash.slice(1) !== written.current) { written.current = location.hash.slice(1); store.load(fromHash(location.hash)); } };
    addEventListener("hashchange", read);
    const stop = store.subscribe(write);
    return () => { removeEventListener("hashchange", read); stop(); };
  }, [store]);
  const shared = useMemo(() => ({ store, colours: palette(theme), root: () => root }), [store, theme]);
  const link = linked ? (): string => `${location.href.split("#")[0]}#${toHash(store.get(), store.start)}` : null;
  return <Context.Provider value={shared}><App link={link} /></Context.Provider>;
}

export type { State };
