// Puts one job for each recipient on the queue. A job contains only the values that differ between messages.
//
// Usage: node enqueue.js SOCKET <recipients.csv

import { readFileSync } from 'node:fs';
import { Queue } from 'bullmq';

const BATCH = 1000;
const [, ...rows] = readFileSync(0, 'utf8').trimEnd().split('\n');
const queue = new Queue('messages', { connection: { path: process.argv[2] } });
for (let from = 0; from < rows.length; from += BATCH) {
  const batch = rows.slice(from, from + BATCH).map((row) => row.split(','));
  await queue.addBulk(batch.map(([to, ...values]) => ({ name: 'send', data: { to, values } })));
}
await queue.close();
