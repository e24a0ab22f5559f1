/** Test runner settings: sources run as native modules through tsx, so that an imported constant costs nothing. */
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    execArgv: ['--import', 'tsx'],
    experimental: { viteModuleRunner: false, nodeLoader: false },
    testTimeout: 60_000,
  },
});
