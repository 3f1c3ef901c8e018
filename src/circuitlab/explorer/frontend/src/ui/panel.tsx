/** A panel: heading, what one can do with it (Python, export, maximise), and its content. */
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Scene } from "../scene/scene.ts";
import { useExplorer } from "../state/store.ts";
import { Icon, useName } from "./controls.tsx";
import { copyText, savePng, saveSvg, saveText } from "./files.ts";
import { csv } from "./format.ts";

export type Rows = (string | number | null | undefined | boolean)[][];

interface PanelProps {
  name: string;
  title: string;
  note?: ComponentChildren;
  tools?: ComponentChildren;
  /** The panel as a picture and as a table, for export. */
  scene: () => Scene;
  rows: () => Rows;
  python?: () => string;
  class?: string;
  children: ComponentChildren;
}

export function Panel(props: PanelProps) {
  const [large, setLarge] = useState(false);
  const [code, setCode] = useState<string | null>(null);
  const section = useRef<HTMLElement>(null);
  const heading = useName("title");
  useEffect(() => {
    if (!large) return;
    const close = (event: KeyboardEvent): void => {
      if (event.key === "Escape" && !event.defaultPrevented) setLarge(false);
    };
    document.addEventListener("keydown", close);
    return () => document.removeEventListener("keydown", close);
  }, [large]);
  return (
    <section
      ref={section}
      class={`clx-panel ${large ? "clx-large" : ""} ${props.class ?? ""}`}
      aria-labelledby={heading}
      data-panel={props.name}
    >
      <header class="clx-panel-head">
        <div class="clx-panel-title">
          <h2 id={heading}>{props.title}</h2>
          {props.note && <p class="clx-note">{props.note}</p>}
        </div>
        <div class="clx-panel-tools">
          {props.tools}
          {props.python && (
            <button
              type="button"
              class="clx-icon"
              title="Python that makes this"
              aria-label={`Python that makes this: ${props.title}`}
              onClick={() => setCode(props.python!())}
            >
              <Icon name="code" />
            </button>
          )}
          <Export name={props.name} title={props.title} scene={props.scene} rows={props.rows} />
          <button
            type="button"
            class="clx-icon"
            title={large ? "Restore" : "Maximise"}
            aria-label={`${large ? "Restore" : "Maximise"}: ${props.title}`}
            aria-pressed={large}
            onClick={() => setLarge(!large)}
          >
            <Icon name={large ? "shrink" : "grow"} />
          </button>
        </div>
      </header>
      <div class="clx-panel-body">{props.children}</div>
      {code !== null && <CodeDialog title={`Python: ${props.title}`} code={code} close={() => setCode(null)} />}
    </section>
  );
}

function Export({ name, title, scene, rows }: Pick<PanelProps, "name" | "title" | "scene" | "rows">) {
  const { colours, payload } = useExplorer();
  const file = `${payload.title} ${name}`.toLowerCase();
  return (
    <Menu label={`Export: ${title}`} icon="download">
      <button type="button" onClick={() => saveSvg(file, scene(), colours)}>
        SVG picture
      </button>
      <button type="button" onClick={() => savePng(file, scene(), colours)}>
        PNG picture
      </button>
      <button type="button" onClick={() => saveText(`${file}.csv`, csv(rows()), "text/csv")}>
        CSV table
      </button>
    </Menu>
  );
}

/** A button that opens a list of buttons; it closes when one is pressed, on Escape, and when focus leaves. */
export function Menu({ label, icon, text, children }: { label: string; icon: string; text?: string; children: ComponentChildren }) {
  const [shown, setShown] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  const left = (event: FocusEvent): void => {
    if (!box.current?.contains(event.relatedTarget as Node | null)) setShown(false);
  };
  const key = (event: KeyboardEvent): void => {
    if (event.key !== "Escape" || !shown) return;
    event.preventDefault();
    setShown(false);
    box.current?.querySelector("button")?.focus();
  };
  return (
    <div class="clx-menu" ref={box} onFocusOut={left} onKeyDown={key}>
      <button
        type="button"
        class={text ? "clx-button" : "clx-icon"}
        aria-label={label}
        title={label}
        aria-expanded={shown}
        onClick={() => setShown(!shown)}
      >
        <Icon name={icon} />
        {text && <span>{text}</span>}
      </button>
      {shown && (
        <div
          class="clx-menu-list"
          tabIndex={-1}
          onClick={(event) => {
            if ((event.target as HTMLElement).closest("button,label")) setShown(false);
          }}
        >
          {children}
        </div>
      )}
    </div>
  );
}

/** A modal dialog that gives focus back. */
export function Dialog({
  title,
  close,
  children,
  class: name,
}: {
  title: string;
  close: () => void;
  children: ComponentChildren;
  class?: string;
}) {
  const ref = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    const dialog = ref.current!;
    if (!dialog.open) dialog.showModal();
    return () => {
      if (dialog.open) dialog.close();
      before?.focus?.();
    };
  }, []);
  return (
    <dialog
      ref={ref}
      class={`clx-dialog ${name ?? ""}`}
      aria-label={title}
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
      onKeyDown={(event) => {
        event.stopPropagation();
        if (event.key === "Escape") {
          event.preventDefault();
          close();
        }
      }}
      onClick={(event) => {
        if (event.target === ref.current) close();
      }}
    >
      <div class="clx-dialog-body">{children}</div>
    </dialog>
  );
}

export function CodeDialog({ title, code, close }: { title: string; code: string; close: () => void }) {
  return (
    <Dialog title={title} close={close}>
      <header class="clx-dialog-head">
        <h2>{title}</h2>
        <button type="button" class="clx-icon" aria-label="Close" onClick={close}>
          <Icon name="close" />
        </button>
      </header>
      <CodeBlock code={code} />
    </Dialog>
  );
}

export function CodeBlock({ code, label = "Code" }: { code: string; label?: string }) {
  const [said, setSaid] = useState("");
  const copy = async (): Promise<void> =>
    setSaid((await copyText(code)) ? "Copied" : "The browser does not let this page copy: select the text");
  return (
    <div class="clx-code">
      <pre tabIndex={0} aria-label={label}>
        {code}
      </pre>
      <button type="button" class="clx-button" onClick={copy}>
        <Icon name="copy" />
        <span>Copy</span>
      </button>
      <span class="clx-said" role="status">
        {said}
      </span>
    </div>
  );
}
