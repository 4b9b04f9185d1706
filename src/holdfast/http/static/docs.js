// Renders /openapi.json: one section a route, with what it takes and what it answers.
"use strict";

let description;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Words from the description: `code` between backticks is all the markup they have.
function words(text) {
  return text.split(/`([^`]*)`/).map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

function paragraphs(text) {
  return text.split("\n\n").map((part) => element("p", {}, ...words(part)));
}

function resolved(schema) {
  while (schema.$ref) schema = description.components.schemas[schema.$ref.split("/").pop()];
  return schema;
}

// A type for people: "integer, 1 to 9000000000000000", "string or null", "list of object".
function typeOf(schema) {
  schema = resolved(schema);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  let text = schema.format ?? schema.type ?? "any";
  if (schema.minimum !== undefined) text += `, ${schema.minimum}`;
  if (schema.maximum !== undefined) text += ` to ${schema.maximum}`;
  return text;
}

// The object that a schema is, or is a list of; undefined where there is none to show.
function objectIn(schema) {
  schema = resolved(schema);
  if (schema.anyOf) return schema.anyOf.map(objectIn).find((found) => found);
  if (schema.type === "array") return objectIn(schema.items);
  return schema.properties ? schema : undefined;
}

function describe(schema) {
  const inner = schema.anyOf?.map(resolved).find((each) => each.description);
  return schema.description ?? inner?.description ?? "";
}

function row(name, schema, required, depth, note = describe(schema)) {
  return element(
    "tr",
    { className: depth ? "nested" : "" },
    element("td", {}, required ? `${name} *` : name),
    element("td", {}, typeOf(schema)),
    element("td", {}, ...words(note)),
  );
}

function rows(schema, depth = 0) {
  const found = objectIn(schema);
  if (!found) return [];
  return Object.entries(found.properties).flatMap(([name, property]) => [
    row(name, property, found.required?.includes(name), depth),
    ...(depth < 2 ? rows(property, depth + 1) : []),
  ]);
}

function table(title, lines) {
  if (!lines.length) return [];
  return [element("h3", {}, title), element("table", {}, element("tbody", {}, ...lines))];
}

function json(content) {
  return Object.values(content ?? {})[0]?.schema ?? {};
}

function answers(responses) {
  const good = Object.entries(responses).filter(([status]) => status < 400);
  const bad = Object.entries(responses).filter(([status]) => status >= 400);
  const refusals = bad.map(([status, answer]) =>
    element(
      "tr",
      {},
      element("td", {}, status),
      element("td", {}),
      element("td", {}, ...words(answer.description)),
    ),
  );
  const statuses = good.map(([status]) => status).join(", ");
  return [
    ...table(`Answer ${statuses}`, rows(json(good[0]?.[1].content))),
    ...table("Refusals", refusals),
  ];
}

function route(path, method, operation) {
  const parameters = operation.parameters.map((each) =>
    row(each.name, each.schema, each.required, 0, each.description ?? describe(each.schema)),
  );
  const name = element("span", { className: `method ${method}` }, method);
  return element(
    "section",
    { id: operation.operationId },
    element("h2", {}, name, " ", path),
    element("p", {}, ...words(`${operation.summary}.`)),
    ...(operation.description ? paragraphs(operation.description) : []),
    ...table("Parameters", parameters),
    ...table("Body", rows(json(operation.requestBody?.content))),
    ...answers(operation.responses),
  );
}

async function main() {
  const answer = await fetch("../openapi.json");
  description = await answer.json();
  const index = document.getElementById("index");
  const routes = document.getElementById("routes");
  const { title, version, description: about } = description.info;
  routes.replaceChildren(element("h1", {}, `${title} ${version}`), ...paragraphs(about));
  for (const [path, operations] of Object.entries(description.paths)) {
    for (const [lower, operation] of Object.entries(operations)) {
      const method = lower.toUpperCase();
      routes.append(route(path, method, operation));
      const name = element("span", { className: `method ${method}` }, method);
      const link = element("a", { href: `#${operation.operationId}` });
      index.append(Object.assign(link, { title: path }));
      link.append(name, operation.operationId);
    }
  }
}

main().catch((error) => {
  document.getElementById("routes").replaceChildren(`The description could not be read: ${error}`);
});
