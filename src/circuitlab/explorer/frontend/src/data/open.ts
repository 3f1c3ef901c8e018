/** The door for data: what is not a payload of the known version is refused with a sentence for the reader. */
import { SCHEMA, type Payload } from "./schema.ts";

const LISTS = [
  "models",
  "tasks",
  "methods",
  "scores",
  "prompts",
  "roles",
  "attention",
  "cards",
  "circuits",
  "overlap",
  "transfer",
  "dissociation",
] as const;

export class UnreadableData extends Error {}

export function open(data: unknown): Payload {
  if (typeof data === "string") {
    try {
      return open(JSON.parse(data));
    } catch (error) {
      if (error instanceof UnreadableData) throw error;
      throw new UnreadableData("The explorer's data is not JSON. Build the page again.");
    }
  }
  if (data === null || typeof data !== "object") throw new UnreadableData("The explorer was given no data. Build the page again.");
  const given = data as Record<string, unknown>;
  if (given.schema !== SCHEMA) {
    const version = given.schema === undefined ? "names no version" : `is of version ${JSON.stringify(given.schema)}`;
    throw new UnreadableData(
      `The data ${version}; this explorer reads ${SCHEMA}. Build the page with the circuitlab that this explorer came with.`,
    );
  }
  for (const name of LISTS) {
    if (!Array.isArray(given[name])) throw new UnreadableData(`The data has no list of ${name}. Build the page again.`);
  }
  if ((given.models as unknown[]).length === 0) throw new UnreadableData("The data names no model. Build the page again.");
  return data as Payload;
}
