/** The finder: `/` opens it anywhere. */
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { find } from "../data/find.ts";
import { metricKey } from "../state/state.ts";
import { useExplorer } from "../state/store.ts";
import { useName } from "../ui/controls.tsx";
import { Dialog } from "../ui/panel.tsx";

export function Finder({ close }: { close: () => void }) {
  const { payload, model, state, set } = useExplorer();
  const list = useName("hits");
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const input = useRef<HTMLInputElement>(null);
  const hits = useMemo(() => find(payload, model, text, metricKey(payload, state), state), [text]);
  useLayoutEffect(() => input.current?.focus(), []);
  const choose = (place: number): void => {
    const hit = hits[place];
    if (!hit) return;
    set({ node: hit.node, view: state.view === "about" ? "heads" : state.view });
    close();
  };
  const key = (event: KeyboardEvent): void => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setAt(Math.max(0, Math.min(hits.length - 1, at + (event.key === "ArrowDown" ? 1 : -1))));
    }
    if (event.key === "Enter") {
      event.preventDefault();
      choose(at);
    }
  };
  return (
    <Dialog title="Find a head" close={close} class="clx-finder">
      <input
        ref={input}
        type="text"
        class="clx-find"
        role="combobox"
        aria-label="Find a head by name, label, role or token"
        aria-expanded={hits.length > 0}
        aria-controls={list}
        aria-activedescendant={hits.length ? `${list}-${at}` : undefined}
        aria-autocomplete="list"
        placeholder="a9.h6, induction, Mary…"
        value={text}
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setAt(0);
        }}
        onKeyDown={key}
      />
      <ul id={list} role="listbox" aria-label="Heads" class="clx-hits">
        {hits.map((hit, i) => (
          <li
            key={hit.node}
            id={`${list}-${i}`}
            role="option"
            aria-selected={i === at}
            onPointerEnter={() => setAt(i)}
            onClick={() => choose(i)}
          >
            <span class="clx-mono">{hit.node}</span>
            <span class="clx-soft">{hit.why}</span>
          </li>
        ))}
      </ul>
      {hits.length === 0 && (
        <p class="clx-note">Nothing by this name. Names look like a9.h6 or m3; roles and tokens are found where the page holds them.</p>
      )}
    </Dialog>
  );
}
