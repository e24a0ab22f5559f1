#!/bin/sh
# Types, format, lint, import rules and house rules. Installs its tools on first use.
set -eu
cd "$(dirname "$0")/.."

tools=.ci/tools/node_modules
[ -d "$tools" ] || npm ci --prefix .ci/tools

echo "check: types"
"$tools/.bin/tsc" -p . --typeRoots "$tools/@types"
echo "check: format and lint"
"$tools/.bin/biome" check --error-on-warnings .
echo "check: imports and house rules"
npx vitest run test/layering.test.ts test/house.test.ts
