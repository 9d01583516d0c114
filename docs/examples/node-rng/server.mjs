// A server that gives out session ids. crypto.randomBytes asks OpenSSL, which keeps a generator of its own in the process: two
// copies of the process go on with the same one, so that both would give out the same ids.
//
// getrandom(2), by /dev/urandom, is what guestd has made fresh. So ids are made of both: the generator's bytes, and a salt from the kernel that
// is read anew for each generation.
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, openSync, readSync, closeSync, watch } from 'node:fs';
import { createServer } from 'node:http';

function fromKernel(length) {
  const bytes = Buffer.alloc(length);
  const device = openSync('/dev/urandom', 'r');
  readSync(device, bytes, 0, length, null);
  closeSync(device);
  return bytes;
}

function generation() {
  try {
    return readFileSync('/run/guestd/generation', 'utf8').trim();
  } catch {
    return 'none';
  }
}

let present = generation();
let salt = fromKernel(32);

function sessionId() {
  // Between the restore and the event there may be requests: a read of a file in memory is cheap.
  const now = generation();
  if (now !== present) {
    present = now;
    salt = fromKernel(32);
  }
  return createHash('sha256').update(salt).update(randomBytes(32)).digest('hex');
}

// Whatever else was made in advance is to be thrown away here.
watch('/run/guestd', (_event, name) => {
  if (name === 'generation') console.log(`generation ${generation()}`);
});

createServer((_request, response) => response.end(`${sessionId()}\n`)).listen(8080, '::');
