// Writes src/data/schema.ts from ../schema.json. `node types.mjs --check` only says whether it is current.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const schema = JSON.parse(readFileSync(join(here, "..", "schema.json"), "utf8"));
const target = join(here, "src", "data", "schema.ts");

const typeName = (name) =>
  name
    .split("_")
    .map((part) => part[0].toUpperCase() + part.slice(1))
    .join("");
const key = (name) => (/^[A-Za-z_]\w*$/.test(name) ? name : JSON.stringify(name));

function typeOf(node, depth) {
  if (node.$ref) return typeName(node.$ref.split("/").at(-1));
  if ("const" in node) return JSON.stringify(node.const);
  if (node.enum) return node.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (Array.isArray(node.type)) return node.type.map((type) => typeOf({ ...node, type }, depth)).join(" | ");
  switch (node.type) {
    case "integer":
    case "number":
      return "number";
    case "string":
    case "boolean":
    case "null":
      return node.type;
    case "array": {
      const item = typeOf(node.items ?? {}, depth);
      return /[|{]/.test(item) && !item.startsWith("{") ? `(${item})[]` : `${item}[]`;
    }
    case "object":
      return node.properties
        ? fields(node, depth)
        : `Record<string, ${node.additionalProperties ? typeOf(node.additionalProperties, depth) : "unknown"}>`;
    default:
      return "unknown";
  }
}

function fields(node, depth) {
  const indent = "  ".repeat(depth + 1);
  const rows = Object.entries(node.properties).map(([name, value]) => {
    const note = value.description ? `${indent}/** ${value.description} */\n` : "";
    return `${note}${indent}${key(name)}${(node.required ?? []).includes(name) ? "" : "?"}: ${typeOf(value, depth + 1)};`;
  });
  return `{\n${rows.join("\n")}\n${"  ".repeat(depth)}}`;
}

let text = "/** Made from schema.json by `npm run types`; do not edit. */\n\n";
text += `export const SCHEMA = ${JSON.stringify(schema.properties.schema.const)};\n\n`;
for (const [name, node] of [["payload", schema], ...Object.entries(schema.$defs)]) {
  if (node.description) text += `/** ${node.description} */\n`;
  text += `export type ${typeName(name)} = ${typeOf(node, 0)};\n\n`;
}
text = `${text.trimEnd()}\n`;

if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== text) {
    console.error("src/data/schema.ts is not what schema.json says; run `npm run types` in the frontend folder.");
    process.exit(1);
  }
} else writeFileSync(target, text);
