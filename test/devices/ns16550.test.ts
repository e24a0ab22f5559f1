/** The UART as a driver sees it (PC16550D data sheet, section 8). */
import { describe, expect, it } from 'vitest';
import { Ns16550 } from '#devices';
import { probedLine } from './support/wires.ts';

const RBR = 0;
const THR = 0;
const IER = 1;
const IIR = 2;
const FCR = 2;
const LCR = 3;
const MCR = 4;
const LSR = 5;
const MSR = 6;
const SCR = 7;

const boardOf = () => {
  const irq = probedLine();
  const out: number[] = [];
  const uart = new Ns16550({ irq, onByte: (byte) => out.push(byte) });
  const receive = (text: string) => {
    for (const char of text) uart.receive(char.charCodeAt(0));
  };
  const received = () => {
    let text = '';
    while ((uart.read(LSR, 1) & 1) !== 0) text += String.fromCharCode(uart.read(RBR, 1));
    return text;
  };
  return { uart, irq, out, receive, received };
};

describe('transmitter', () => {
  it('sends what is written to THR, and is empty again at once', () => {
    const { uart, out } = boardOf();
    uart.write(THR, 1, 0x141);
    expect(out).toEqual([0x41]);
    expect(uart.read(LSR, 1)).toBe(0x60);
  });

  it('8.5: enabling its interrupt raises it; reading IIR takes it away', () => {
    const { uart, irq } = boardOf();
    uart.write(IER, 1, 0x02);
    expect(irq.level).toBe(true);
    expect(uart.read(IIR, 1)).toBe(0x02);
    expect(irq.level).toBe(false);
    expect(uart.read(IIR, 1)).toBe(0x01);
  });

  it('8.5: each byte written raises it again', () => {
    const { uart, irq } = boardOf();
    uart.write(IER, 1, 0x02);
    uart.read(IIR, 1);
    uart.write(THR, 1, 1);
    expect(irq.level).toBe(true);
  });
});

describe('receiver', () => {
  it('without FIFO holds one byte; the next is lost and sets OE once', () => {
    const { uart, receive } = boardOf();
    receive('ab');
    expect(uart.read(LSR, 1)).toBe(0x63);
    expect(uart.read(LSR, 1)).toBe(0x61);
    expect(uart.read(RBR, 1)).toBe(0x61);
    expect(uart.read(LSR, 1)).toBe(0x60);
    expect(uart.read(RBR, 1)).toBe(0);
  });

  it('with FIFO holds sixteen bytes in order', () => {
    const { uart, receive, received } = boardOf();
    uart.write(FCR, 1, 0x01);
    expect(uart.rxRoom).toBe(16);
    receive('0123456789abcdefg');
    expect(uart.rxRoom).toBe(0);
    expect(received()).toBe('0123456789abcdef');
  });

  it('interrupts while a byte is there', () => {
    const { uart, irq, receive } = boardOf();
    uart.write(IER, 1, 0x01);
    receive('a');
    expect(uart.read(IIR, 1)).toBe(0x04);
    uart.read(RBR, 1);
    expect(irq.edges).toEqual(['up', 'down']);
  });

  it('8.5: below the trigger level it is a character timeout, at it received data', () => {
    const { uart, receive } = boardOf();
    uart.write(FCR, 1, 0x41); // four bytes
    uart.write(IER, 1, 0x01);
    receive('abc');
    expect(uart.read(IIR, 1)).toBe(0xcc);
    receive('d');
    expect(uart.read(IIR, 1)).toBe(0xc4);
  });

  it('8.4: FCR bit 1 and toggling the FIFO enable empty it', () => {
    const { uart, receive, received } = boardOf();
    uart.write(FCR, 1, 0x01);
    receive('abc');
    uart.write(FCR, 1, 0x03);
    expect(received()).toBe('');
    receive('abc');
    uart.write(FCR, 1, 0x00);
    expect(received()).toBe('');
  });
});

describe('8.5 interrupt priorities', () => {
  it('line status, received data, transmitter empty, modem status', () => {
    const { uart, receive } = boardOf();
    receive('ab'); // overrun
    uart.write(MCR, 1, 0x10);
    uart.write(MCR, 1, 0x00); // modem deltas
    uart.write(IER, 1, 0x0f);
    const causes = [uart.read(IIR, 1)];
    uart.read(LSR, 1);
    causes.push(uart.read(IIR, 1));
    uart.read(RBR, 1);
    causes.push(uart.read(IIR, 1)); // this read acknowledges THRE
    causes.push(uart.read(IIR, 1));
    uart.read(MSR, 1);
    causes.push(uart.read(IIR, 1));
    expect(causes).toEqual([0x06, 0x04, 0x02, 0x00, 0x01]);
  });
});

describe('modem control and loopback', () => {
  it('the line is connected: CTS, DSR and DCD, no deltas', () =>
    expect(boardOf().uart.read(MSR, 1)).toBe(0xb0));

  for (const { fact, mcr, msr } of [
    { fact: 'RTS is CTS and OUT2 is DCD (what drivers probe for)', mcr: 0x1a, msr: 0x90 },
    { fact: 'DTR is DSR', mcr: 0x11, msr: 0x20 },
    { fact: 'OUT1 is RI', mcr: 0x14, msr: 0x40 },
  ])
    it(`8.6: in loopback ${fact}`, () => {
      const { uart } = boardOf();
      uart.write(MCR, 1, mcr);
      expect(uart.read(MSR, 1) & 0xf0).toBe(msr);
    });

  it('8.7: deltas tell what changed, RI only when it ends, until MSR is read', () => {
    const { uart } = boardOf();
    uart.write(MCR, 1, 0x1f);
    expect(uart.read(MSR, 1)).toBe(0xf0); // all on: only RI changed, by rising
    uart.write(MCR, 1, 0x10);
    expect(uart.read(MSR, 1)).toBe(0x0f);
    expect(uart.read(MSR, 1)).toBe(0x00);
  });

  it('8.6: what is sent in loopback is received, and nothing goes out or comes in', () => {
    const { uart, out, receive, received } = boardOf();
    uart.write(MCR, 1, 0x10);
    uart.write(THR, 1, 0x5a);
    receive('x');
    expect(received()).toBe('Z');
    expect(out).toEqual([]);
  });
});

describe('registers that only remember', () => {
  it('SCR and LCR', () => {
    const { uart } = boardOf();
    uart.write(SCR, 1, 0xa5);
    uart.write(LCR, 1, 0x1b);
    expect([uart.read(SCR, 1), uart.read(LCR, 1)]).toEqual([0xa5, 0x1b]);
  });

  it('8.3: the divisor is at offsets 0 and 1 while DLAB is set, and touches neither THR nor IER', () => {
    const { uart, out, irq } = boardOf();
    uart.write(LCR, 1, 0x83);
    uart.write(0, 1, 0x34);
    uart.write(1, 1, 0x12);
    expect([uart.read(0, 1), uart.read(1, 1)]).toEqual([0x34, 0x12]);
    uart.write(LCR, 1, 0x03);
    expect(uart.read(IER, 1)).toBe(0);
    expect(out).toEqual([]);
    expect(irq.edges).toEqual([]);
  });

  it('IER has four bits, MCR five; beyond SCR there is nothing', () => {
    const { uart } = boardOf();
    uart.write(IER, 1, 0xf0);
    uart.write(MCR, 1, 0xe0);
    uart.write(8, 1, 0xff);
    expect([uart.read(IER, 1), uart.read(MCR, 1), uart.read(8, 1)]).toEqual([0, 0, 0]);
  });
});

describe('save and restore', () => {
  it('keeps the FIFO and what is pending', () => {
    const first = boardOf();
    first.uart.write(FCR, 1, 0x81);
    first.uart.write(IER, 1, 0x01);
    first.receive('hello');
    const second = boardOf();
    second.uart.restore(structuredClone(first.uart.save()));
    expect(second.uart.read(IIR, 1)).toBe(0xcc);
    expect(second.received()).toBe('hello');
    expect(second.uart.save()).not.toEqual(first.uart.save());
  });
});
