/** The page: header with the choices that all views share, and the view. */
import { useEffect, useRef, useState } from "preact/hooks";
import { markOptions, methodOptions, modelOptions, taskOptions } from "./data/choices.ts";
import { fromFile, toFile } from "./state/hash.ts";
import { type ThemeChoice, type View } from "./state/state.ts";
import { useExplorer } from "./state/store.ts";
import { Icon, Select } from "./ui/controls.tsx";
import { copyText, readJson, saveText } from "./ui/files.ts";
import { Guard } from "./ui/guard.tsx";
import { Menu } from "./ui/panel.tsx";
import { AboutView } from "./views/about.tsx";
import { AttentionPanel } from "./views/attention.tsx";
import { CardPanel } from "./views/card.tsx";
import { CircuitView } from "./views/circuit.tsx";
import { CompareView } from "./views/compare.tsx";
import { Finder } from "./views/finder.tsx";
import { MapPanel } from "./views/map.tsx";
import { Tray } from "./views/tray.tsx";
import { Verdicts } from "./views/verdicts.tsx";

const VIEWS: { value: View; label: string }[] = [
  { value: "heads", label: "Heads" },
  { value: "circuit", label: "Circuit" },
  { value: "compare", label: "Compare" },
  { value: "about", label: "About" },
];

export function App({ link }: { link: (() => string) | null }) {
  const { state, root } = useExplorer();
  const [finding, setFinding] = useState(false);
  const [said, setSaid] = useState("");
  useEffect(() => {
    const slash = (event: KeyboardEvent): void => {
      const target = event.target as HTMLElement | null;
      if (
        event.key !== "/" ||
        event.ctrlKey ||
        event.metaKey ||
        event.altKey ||
        target?.closest("input:not([type=radio]):not([type=checkbox]):not([type=range]),textarea,select,[contenteditable]")
      )
        return;
      event.preventDefault();
      setFinding(true);
    };
    const place = root();
    place.addEventListener("keydown", slash);
    const outside = (event: KeyboardEvent): void => {
      if (event.target === document.body) slash(event);
    };
    document.addEventListener("keydown", outside);
    return () => {
      place.removeEventListener("keydown", slash);
      document.removeEventListener("keydown", outside);
    };
  }, [root]);
  return (
    <div class="clx-app">
      <Header find={() => setFinding(true)} link={link} say={setSaid} />
      <Choices />
      <div class="clx-saying" role="status">
        {said}
      </div>
      <Guard key={state.view}>
        <div class={`clx-view clx-view-${state.view}`}>
          {state.view === "heads" && (
            <>
              <div class="clx-columns">
                <div class="clx-stack">
                  <MapPanel />
                  <AttentionPanel />
                </div>
                <CardPanel />
              </div>
              <Tray />
            </>
          )}
          {state.view === "circuit" && (
            <>
              <CircuitView />
              <Tray />
            </>
          )}
          {state.view === "compare" && <CompareView />}
          {state.view === "about" && <AboutView />}
        </div>
      </Guard>
      {finding && <Finder close={() => setFinding(false)} />}
    </div>
  );
}

function Header({ find, link, say }: { find: () => void; link: (() => string) | null; say: (text: string) => void }) {
  const { payload, state, set, store } = useExplorer();
  const file = useRef<HTMLInputElement>(null);
  const next: Record<ThemeChoice, ThemeChoice> = { auto: "light", light: "dark", dark: "auto" };
  const glyph: Record<ThemeChoice, string> = { auto: "auto", light: "sun", dark: "moon" };
  const load = (event: Event): void => {
    const input = event.currentTarget as HTMLInputElement,
      chosen = input.files?.[0];
    if (!chosen) return;
    readJson(chosen)
      .then((data) => {
        const dropped = store.load(fromFile(data));
        say(dropped.length ? `Loaded ${chosen.name}; not on this page and left out: ${dropped.join(", ")}.` : `Loaded ${chosen.name}.`);
      })
      .catch((error: unknown) =>
        say(error instanceof SyntaxError ? `${chosen.name} is not JSON.` : `${chosen.name}: ${(error as Error).message}`),
      );
    input.value = "";
  };
  const share = async (): Promise<void> =>
    say(
      (await copyText(link!())) ? "Link to this view copied." : "The browser does not let this page copy: the address bar holds the link.",
    );
  return (
    <header class="clx-header">
      <h1>{payload.title}</h1>
      <nav aria-label="Views" class="clx-tabs">
        {VIEWS.map((view) => (
          <button
            key={view.value}
            type="button"
            aria-current={state.view === view.value ? "page" : undefined}
            onClick={() => set({ view: view.value })}
          >
            {view.label}
          </button>
        ))}
      </nav>
      <div class="clx-actions">
        <button type="button" class="clx-button clx-finder-button" onClick={find} aria-label="Find a head" aria-keyshortcuts="/">
          <Icon name="search" />
          <span aria-hidden="true">Find</span>
          <kbd aria-hidden="true">/</kbd>
        </button>
        <Menu label="Save or load this view" icon="save">
          <button type="button" onClick={() => saveText("explorer-view.json", toFile(state, payload.title), "application/json")}>
            Save this view as JSON
          </button>
          <button type="button" onClick={() => file.current?.click()}>
            Load a view from JSON
          </button>
          {link && (
            <button type="button" onClick={share}>
              Copy a link to this view
            </button>
          )}
          <button
            type="button"
            onClick={() => {
              store.load({});
              say("Back to the start.");
            }}
          >
            Start again
          </button>
        </Menu>
        <input
          ref={file}
          type="file"
          accept="application/json,.json"
          class="clx-hidden"
          tabIndex={-1}
          aria-label="File of a saved view"
          onChange={load}
        />
        <button
          type="button"
          class="clx-icon"
          aria-label={`Colours: ${state.theme}. Change to ${next[state.theme]}`}
          title={`Colours: ${state.theme}`}
          onClick={() => set({ theme: next[state.theme] })}
        >
          <Icon name={glyph[state.theme]} />
        </button>
      </div>
    </header>
  );
}

function Choices() {
  const { payload, state, model, set } = useExplorer();
  const marks = markOptions(payload, state),
    tasks = taskOptions(payload, model),
    methods = methodOptions(payload, state);
  const chooseTask = (task: string): void => {
    const methodsThere = payload.scores.filter((one) => one.model === model.id && (one.task ?? "") === task).map((one) => one.method);
    set({ task, method: methodsThere.includes(state.method) ? state.method : (methodsThere[0] ?? state.method) });
  };
  const chooseModel = (id: string): void => {
    const there = payload.scores.filter((one) => one.model === id);
    const same = there.find((one) => (one.task ?? "") === state.task && one.method === state.method) ?? there[0];
    set({ model: id, task: same?.task ?? state.task, method: same?.method ?? state.method });
  };
  return (
    <div class="clx-choices">
      {payload.models.length > 1 ? (
        <Select label="Model" value={state.model} options={modelOptions(payload)} onChange={chooseModel} />
      ) : (
        <div class="clx-fact">
          <span class="clx-label">Model</span>
          <span>{model.name}</span>
        </div>
      )}
      {tasks.length > 0 && <Select label="Task" value={state.task} options={tasks} onChange={chooseTask} />}
      {methods.length > 0 && <Select label="Method" value={state.method} options={methods} onChange={(method) => set({ method })} />}
      {marks.length > 1 && <Select label="Position" value={state.mark} options={marks} onChange={(mark) => set({ mark })} />}
      <Verdicts />
    </div>
  );
}
