/** Colours of scenes, light and dark; the diverging scale is that of circuitlab's figures: orange hinders, blue helps. */
import { scaleLinear } from "d3-scale";

export type ThemeName = "light" | "dark";

export interface Palette {
  name: ThemeName;
  ground: string;
  panel: string;
  ink: string;
  soft: string;
  line: string;
  faint: string;
  accent: string;
  helps: string;
  hinders: string;
  warn: string;
  good: string;
  diverging: string[];
  sequential: string[];
  q: string;
  k: string;
  v: string;
  plain: string;
  categories: string[];
}

const LIGHT: Palette = {
  name: "light",
  ground: "#fafaf8",
  panel: "#ffffff",
  ink: "#1b1f24",
  soft: "#59636e",
  line: "#aab2bb",
  faint: "#e6e8eb",
  accent: "#5b3fd0",
  helps: "#2a78b5",
  hinders: "#c85a12",
  warn: "#8a5a00",
  good: "#1b7a55",
  diverging: ["#8c3a04", "#d9691e", "#f3b98a", "#f5f5f3", "#9ec9e8", "#3182bd", "#08407e"],
  sequential: ["#f5f5f3", "#d6e6ef", "#9ec9e8", "#3182bd", "#08407e"],
  q: "#1b6fb0",
  k: "#b8860b",
  v: "#2f8570",
  plain: "#7d8590",
  categories: ["#2a78b5", "#c85a12", "#2f8570", "#7d5bb0", "#a1761d", "#b0457d"],
};

const DARK: Palette = {
  name: "dark",
  ground: "#0e1116",
  panel: "#151a21",
  ink: "#e7ecf2",
  soft: "#9aa4b0",
  line: "#59636e",
  faint: "#262d36",
  accent: "#b3a4ff",
  helps: "#5aa9e6",
  hinders: "#e8884a",
  warn: "#e0b050",
  good: "#58c49a",
  diverging: ["#f0894a", "#a85218", "#5a3419", "#222932", "#1d4a70", "#2f7cc0", "#74bdf5"],
  sequential: ["#222932", "#1d3c58", "#1f5f94", "#3c8fd6", "#9fd3ff"],
  q: "#5aa9e6",
  k: "#e0b84c",
  v: "#5fc2a8",
  plain: "#9198a1",
  categories: ["#5aa9e6", "#e8884a", "#5fc2a8", "#b597e8", "#d5ae55", "#e07fb2"],
};

export function palette(theme: ThemeName): Palette {
  return theme === "dark" ? DARK : LIGHT;
}

/** Colours for values that can help or hinder; `limit` is the largest magnitude, and 0 is always the neutral middle. */
export function divergingScale(colours: Palette, limit: number): (value: number) => string {
  const reach = limit > 0 ? limit : 1;
  const steps = colours.diverging.map((_, i) => -reach + (2 * reach * i) / (colours.diverging.length - 1));
  const scale = scaleLinear<string>().domain(steps).range(colours.diverging).clamp(true);
  return (value) => scale(value);
}

/** Colours for values from 0 up. */
export function sequentialScale(colours: Palette, limit: number): (value: number) => string {
  const reach = limit > 0 ? limit : 1;
  const steps = colours.sequential.map((_, i) => (reach * i) / (colours.sequential.length - 1));
  const scale = scaleLinear<string>().domain(steps).range(colours.sequential).clamp(true);
  return (value) => scale(value);
}

/** Black or white, whichever reads better on a colour given as rgb(...) or #rrggbb. */
export function inkOn(colour: string): string {
  const parts = colour.startsWith("#")
    ? [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))
    : (colour.match(/\d+(?:\.\d+)?/g) ?? ["255", "255", "255"]).slice(0, 3).map(Number);
  const [red, green, blue] = parts.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return luminance > 0.179 ? "#101418" : "#ffffff";
}
