// http-cache-tests against a cache: `http_cache_tests.mjs BASE [ID...]` runs these tests, or all, against BASE, a cache
// before the server of the same package, and prints one line of JSON: {id: [kind, outcome, reason]}. The server is
// started by `http_cache_tests.mjs serve PORT`.

import process from "node:process";

const [what, ...rest] = process.argv.slice(2);
if (what === "serve") {
  process.env.npm_config_protocol = "http";
  process.env.npm_config_port = rest[0];
  process.env.npm_config_pidfile = "/dev/null";
  await import("http-cache-tests/server/server.mjs");
} else {
  await run(what, rest);
}

async function run(base, ids) {
  const [{ runTests, getResults }, { default: suites }, { default: fetch }] = await Promise.all([
    import("http-cache-tests/client/runner.mjs"),
    import("http-cache-tests/tests/index.mjs"),
    import("node-fetch"),
  ]);
  const wanted = (test) => ids.length === 0 || ids.includes(test.id);
  const chosen = suites.map((suite) => ({ ...suite, tests: suite.tests.filter(wanted) }));
  await runTests(chosen, fetch, false, base);
  const results = getResults();
  const tests = new Map(chosen.flatMap((suite) => suite.tests).map((test) => [test.id, test]));
  const outcomes = {};
  for (const id of Object.keys(results)) {
    const kind = tests.get(id).kind ?? "required";
    outcomes[id] = [kind, outcome(tests, results, id), results[id][1] ?? ""];
  }
  console.log(JSON.stringify(outcomes));
}

// As `determineTestResult` of the package has it.
function outcome(tests, results, id) {
  // A test that is run alone was run with the others before.
  const needs = (tests.get(id).depends_on ?? []).filter((other) => other in results);
  if (needs.some((other) => outcome(tests, results, other) !== "pass")) {
    return "dependency";
  }
  if (results[id] === true) {
    return "pass";
  }
  return results[id]?.[0] === "Setup" ? "setup" : "fail";
}
