/** Two hosts, one module: `mount` for a page, `render` for a widget. */
import { render as draw } from "preact";
import { useEffect, useLayoutEffect, useMemo, useState } from "preact/hooks";
import { App } from "./app.tsx";
import { open, UnreadableData } from "./data/open.ts";
import type { Payload } from "./data/schema.ts";
import { checked, fromHash, toHash } from "./state/hash.ts";
import type { State } from "./state/state.ts";
import { Context, createStore, type Store } from "./state/store.ts";
import css from "./styles.css";
import { palette, type ThemeName } from "./ui/theme.ts";

interface AnyModel {
  get(name: string): unknown;
  set?(name: string, value: unknown): void;
  save_changes?(): void;
  on?(event: string, listener: () => void): void;
  off?(event: string, listener: () => void): void;
}

/** Where a host keeps the state of the view. */
interface StateStorage {
  read(): Partial<State>;
  write(state: State, start: State): void;
  /** Calls back when the state is changed from outside; returns a function that stops it. */
  watch(changed: () => void): () => void;
  link: ((state: State, start: State) => string) | null;
}

/** Draws the explorer into an element of a page; state lives in the address after `#`. Returns a function that takes it away. */
export function mount(el: HTMLElement, payload: unknown): () => void {
  return show(el, payload, location.protocol === "about:" ? forgetful() : address());
}

function render({ model, el }: { model: AnyModel; el: HTMLElement }): () => void {
  const uid = model.get("uid");
  if (typeof uid === "string" && uid) el.setAttribute("data-circuitlab-id", uid);
  let away = show(el, model.get("payload"), trait(model));
  const again = (): void => {
    away();
    away = show(el, model.get("payload"), trait(model));
  };
  model.on?.("change:payload", again);
  return () => {
    model.off?.("change:payload", again);
    away();
  };
}

export default { render };

/** The address after `#`. */
function address(): StateStorage {
  let written = location.hash.slice(1);
  return {
    read: () => fromHash(location.hash),
    write(state, start) {
      const hash = toHash(state, start);
      if (hash === written) return;
      written = hash;
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    },
    watch(changed) {
      const moved = (): void => {
        if (location.hash.slice(1) === written) return;
        written = location.hash.slice(1);
        changed();
      };
      addEventListener("hashchange", moved);
      return () => removeEventListener("hashchange", moved);
    },
    link: (state, start) => `${location.href.split("#")[0]}#${toHash(state, start)}`,
  };
}

/** A trait of the widget, which Python reads and sets. */
function trait(model: AnyModel): StateStorage {
  let written = "";
  let timer: ReturnType<typeof setTimeout> | undefined;
  return {
    read: () => checked((model.get("state") ?? {}) as Record<string, unknown>),
    write(state) {
      clearTimeout(timer);
      timer = setTimeout(() => {
        written = JSON.stringify(state);
        model.set?.("state", JSON.parse(written));
        model.save_changes?.();
      }, 200);
    },
    watch(changed) {
      const moved = (): void => {
        if (JSON.stringify(model.get("state")) !== written) changed();
      };
      model.on?.("change:state", moved);
      return () => {
        clearTimeout(timer);
        model.off?.("change:state", moved);
      };
    },
    link: null,
  };
}

/** A frame without an address of its own. */
function forgetful(): StateStorage {
  return { read: () => ({}), write: () => undefined, watch: () => () => undefined, link: null };
}

function show(el: HTMLElement, data: unknown, storage: StateStorage): () => void {
  const root = document.createElement("div");
  root.className = "cl-explorer";
  const style = document.createElement("style");
  style.textContent = css;
  el.replaceChildren(style, root);
  const stop = watchSize(root);
  try {
    draw(<Root payload={open(data)} root={root} storage={storage} />, root);
  } catch (error) {
    if (!(error instanceof UnreadableData)) throw error;
    refuse(root, error.message);
  }
  return () => {
    stop();
    draw(null, root);
    el.replaceChildren();
  };
}

function refuse(root: HTMLElement, message: string): void {
  const said = document.createElement("p");
  said.className = "clx-refused";
  said.setAttribute("role", "alert");
  said.textContent = message;
  root.append(said);
}

/** A class of width for the style sheet: a container query would keep a maximised panel inside the container. */
function watchSize(root: HTMLElement): () => void {
  const measure = (): void => {
    const width = root.clientWidth;
    if (width > 0) root.dataset.size = width > 980 ? "wide" : width > 560 ? "tablet" : "phone";
  };
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
    const watch = matchMedia("(prefers-color-scheme: dark)"),
      observer = new MutationObserver(changed);
    watch.addEventListener("change", changed);
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    return () => {
      watch.removeEventListener("change", changed);
      observer.disconnect();
    };
  }, []);
  return choice === "auto" ? around : choice;
}

function Root({ payload, root, storage }: { payload: Payload; root: HTMLElement; storage: StateStorage }) {
  const store = useMemo(() => createStore(payload, storage.read()), [payload]);
  const theme = useTheme(store);
  useLayoutEffect(() => {
    root.dataset.theme = theme;
    root.style.colorScheme = theme;
    if (storage.link) document.documentElement.style.background = palette(theme).ground;
  }, [theme]);
  useEffect(() => {
    const quiet = storage.watch(() => store.load({ ...(storage.link ? {} : store.get()), ...storage.read() }));
    const stop = store.subscribe(() => storage.write(store.get(), store.start));
    return () => {
      quiet();
      stop();
    };
  }, [store]);
  const shared = useMemo(() => ({ store, colours: palette(theme), root: () => root }), [store, theme]);
  const link = storage.link ? (): string => storage.link!(store.get(), store.start) : null;
  return (
    <Context.Provider value={shared}>
      <App link={link} />
    </Context.Provider>
  );
}
