/** The test finisher: how software ends the machine. */
import { describe, expect, it } from 'vitest';
import { Finisher, type FinishRequest } from '#devices';

const requestOf = (offset: number, sizeBytes: number, value: number): FinishRequest[] => {
  const requests: FinishRequest[] = [];
  new Finisher({ onFinish: (request) => requests.push(request) }).write(offset, sizeBytes, value);
  return requests;
};

describe('the finisher register', () => {
  for (const { fact, offset = 0, sizeBytes = 4, value, expected } of [
    { fact: '0x5555 passes', value: 0x5555, expected: [{ kind: 'pass', code: 0 }] },
    { fact: '0x3333 fails with code 0', value: 0x3333, expected: [{ kind: 'fail', code: 0 }] },
    {
      fact: 'the high half is the code of a failure',
      value: 0xfffe_3333,
      expected: [{ kind: 'fail', code: 0xfffe }],
    },
    { fact: '0x7777 resets', value: 0x7777, expected: [{ kind: 'reset', code: 0 }] },
    { fact: 'half words work', sizeBytes: 2, value: 0x5555, expected: [{ kind: 'pass', code: 0 }] },
    { fact: 'another value does nothing', value: 0x1234, expected: [] },
    { fact: 'another offset does nothing', offset: 4, value: 0x5555, expected: [] },
    { fact: 'a byte does nothing', sizeBytes: 1, value: 0x55, expected: [] },
  ])
    it(fact, () => expect(requestOf(offset, sizeBytes, value)).toEqual(expected));

  it('reads as zero', () => expect(new Finisher({ onFinish: () => {} }).read(0, 4)).toBe(0));
});
