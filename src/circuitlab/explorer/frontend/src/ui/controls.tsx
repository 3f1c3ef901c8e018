/** Small controls: selects, segmented switches, check boxes, badges, icons. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

/** An id that no other explorer in the same document has. */
export function useName(what: string): string {
  const [name] = useState(() => `clx-${what}-${Math.random().toString(36).slice(2, 10)}`);
  return name;
}

export interface Option {
  value: string;
  label: string;
  group?: string;
}

export function Select({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: string;
  options: Option[];
  onChange: (value: string) => void;
}) {
  const id = useName("select");
  const groups = [...new Set(options.map((option) => option.group ?? ""))];
  const item = (option: Option) => (
    <option key={option.value} value={option.value} selected={option.value === value}>
      {option.label}
    </option>
  );
  return (
    <div class="clx-select">
      <label class="clx-label" for={id}>
        {label}
      </label>
      <select id={id} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {groups.map((group) => {
          const items = options.filter((option) => (option.group ?? "") === group).map(item);
          return group ? (
            <optgroup key={group} label={group}>
              {items}
            </optgroup>
          ) : (
            items
          );
        })}
      </select>
    </div>
  );
}

export function Segmented<T extends string>({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: T;
  options: { value: T; label: string; disabled?: boolean; title?: string }[];
  onChange: (value: T) => void;
}) {
  const name = useName("choice");
  return (
    <fieldset class="clx-segmented">
      <legend class="clx-hidden">{label}</legend>
      {options.map((option) => (
        <label key={option.value} class={option.value === value ? "clx-on" : ""} title={option.title}>
          <input
            type="radio"
            name={name}
            value={option.value}
            checked={option.value === value}
            disabled={option.disabled}
            onChange={() => onChange(option.value)}
          />
          <span>{option.label}</span>
        </label>
      ))}
    </fieldset>
  );
}

export function Check({
  label,
  checked,
  onChange,
  disabled,
  title,
}: {
  label: string;
  checked: boolean;
  onChange: (on: boolean) => void;
  disabled?: boolean;
  title?: string;
}) {
  return (
    <label class="clx-check" title={title}>
      <input type="checkbox" checked={checked} disabled={disabled} onChange={(event) => onChange(event.currentTarget.checked)} />
      <span>{label}</span>
    </label>
  );
}

export type Tone = "good" | "bad" | "plain" | "accent";

export function Badge({ tone, children, title }: { tone: Tone; children: ComponentChildren; title?: string }) {
  return (
    <span class={`clx-badge clx-${tone}`} title={title}>
      {tone !== "plain" && tone !== "accent" && <Icon name={tone === "good" ? "tick" : "warn"} />}
      {children}
    </span>
  );
}

/** Why something is not shown. */
export function Absent({ what, reason }: { what?: string; reason: string }) {
  return (
    <p class="clx-absent">
      {what && <b>{what}: </b>}
      {withCode(reason)}
    </p>
  );
}

/** Text with `code` set apart. */
export function withCode(text: string): ComponentChildren {
  return text.split("`").map((part, i) => (i % 2 ? <code key={i}>{part}</code> : part));
}

const PATHS: Record<string, string> = {
  code: "M6 4 2.5 8 6 12M10 4l3.5 4L10 12",
  download: "M8 2.5v7.5M4.75 7 8 10.25 11.25 7M3 13h10",
  grow: "M9.5 2.5h4v4M13.5 2.5 9 7M6.5 13.5h-4v-4M2.5 13.5 7 9",
  shrink: "M13.5 6.5h-4v-4M9.5 6.5 14 2M2.5 9.5h4v4M6.5 9.5 2 14",
  close: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  tick: "M3 8.5 6.5 12 13 4.5",
  warn: "M8 2.5 14.5 13.5h-13zM8 6.5v3.5M8 11.6v.6",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.3 10.3 14 14",
  sun: "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6M8 1.2v1.6M8 13.2v1.6M1.2 8h1.6M13.2 8h1.6M3.2 3.2l1.1 1.1M11.7 11.7l1.1 1.1M12.8 3.2l-1.1 1.1M4.3 11.7l-1.1 1.1",
  moon: "M13.5 9.7A6 6 0 1 1 6.3 2.5a4.8 4.8 0 0 0 7.2 7.2z",
  auto: "M8 2.5a5.5 5.5 0 1 0 0 11zM8 2.5a5.5 5.5 0 0 1 0 11",
  save: "M3 2.5h8l2.5 2.5v8.5h-11zM5.5 2.5v3.5h5v-3.5M5 13.5v-4h6v4",
  link: "M6.5 9.5l3-3M7 4.5l1.2-1.2a2.8 2.8 0 0 1 4 4L11 8.5M9 11.5l-1.2 1.2a2.8 2.8 0 0 1-4-4L5 7.5",
  pin: "M9.5 2 14 6.5M10.2 2.8 6.5 6.3 3 7l6 6 .7-3.5 3.5-3.7M6 10l-3.8 3.8",
  swap: "M5 2.5 2.5 5 5 7.5M2.5 5h9M11 8.5l2.5 2.5-2.5 2.5M13.5 11h-9",
  left: "M10 3 5 8l5 5",
  right: "M6 3l5 5-5 5",
  plus: "M8 3v10M3 8h10",
  minus: "M3 8h10",
  fit: "M2.5 6v-3.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10",
};

export function Icon({ name }: { name: string }) {
  return (
    <svg class="clx-glyph" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
