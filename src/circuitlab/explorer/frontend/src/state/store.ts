/** One store for all views. */
import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import { column, ranked } from "../data/metrics.ts";
import type { Model, Payload } from "../data/schema.ts";
import type { Palette } from "../ui/theme.ts";
import { changed, initial, metricKey, modelOf, restored, type State } from "./state.ts";

export interface Store {
  payload: Payload;
  start: State;
  get(): State;
  set(change: Partial<State>): void;
  /** Replaces everything, for a loaded file or another link. */
  load(saved: Partial<State>): string[];
  subscribe(listener: () => void): () => void;
}

export function createStore(payload: Payload, saved: Partial<State>): Store {
  const start = initial(payload);
  let state = withHead(payload, restored(payload, saved).state);
  const listeners = new Set<() => void>();
  const tell = (): void => listeners.forEach((listener) => listener());
  return {
    payload,
    start,
    get: () => state,
    set(change) {
      state = changed(payload, state, change);
      tell();
    },
    load(given) {
      const result = restored(payload, given);
      state = withHead(payload, result.state);
      tell();
      return result.dropped;
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** Without a chosen head, the strongest one of what the map shows. */
function withHead(payload: Payload, state: State): State {
  if (state.node) return state;
  const model = modelOf(payload, state);
  const shown = column(payload, model, metricKey(payload, state));
  const strongest = shown && ranked(model, shown)[0];
  return strongest ? { ...state, node: strongest.name } : state;
}

export interface ExplorerContext {
  store: Store;
  colours: Palette;
  root: () => HTMLElement;
}

export const Context = createContext<ExplorerContext | null>(null);

export interface Explorer extends ExplorerContext {
  payload: Payload;
  state: State;
  model: Model;
  set: (change: Partial<State>) => void;
}

/** Everything a view needs; the view is drawn again when the state changes. */
export function useExplorer(): Explorer {
  const shared = useContext(Context);
  if (!shared) throw new Error("A view stands outside the explorer.");
  const { store } = shared;
  const [state, setState] = useState(store.get());
  useEffect(() => {
    setState(store.get());
    return store.subscribe(() => setState(store.get()));
  }, [store]);
  return { ...shared, payload: store.payload, state, model: modelOf(store.payload, state), set: store.set };
}
