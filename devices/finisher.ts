/**
 * The test finisher: one write-only register with which software ends or restarts the machine.
 *
 * SiFive's test device as QEMU's `virt` board has it (hw/misc/sifive_test.c). A value it does not
 * know, or a byte access, does nothing.
 */
import type { MmioDevice } from '#emu';

/** Low half of the value written at offset 0; the high half is the code. */
export const FINISHER_FAIL = 0x3333;
export const FINISHER_PASS = 0x5555;
export const FINISHER_RESET = 0x7777;

/** How the software wants the machine to end. `code` is 0 unless it failed. */
export interface FinishRequest {
  kind: 'pass' | 'fail' | 'reset';
  code: number;
}

export interface FinisherConfig {
  onFinish(request: FinishRequest): void;
}

export class Finisher implements MmioDevice {
  private readonly config: FinisherConfig;

  constructor(config: FinisherConfig) {
    this.config = config;
  }

  read(_offset: number, _sizeBytes: number): number {
    return 0;
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (offset !== 0 || sizeBytes < 2) return;
    switch (value & 0xffff) {
      case FINISHER_PASS:
        this.config.onFinish({ kind: 'pass', code: 0 });
        break;
      case FINISHER_FAIL:
        this.config.onFinish({ kind: 'fail', code: value >>> 16 });
        break;
      case FINISHER_RESET:
        this.config.onFinish({ kind: 'reset', code: 0 });
        break;
    }
  }
}
