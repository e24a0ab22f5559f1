/** Test runner settings: sources run as native modules through tsx, so that an imported constant costs nothing. */
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    execArgv: ['--import', 'tsx'],
    experimental: { viteModuleRunner: false, nodeLoader: false },
    // Files share a process: nothing in the project has state of its own, and each start costs a second.
    isolate: false,
    testTimeout: 60_000,
  },
});
