// Runs jobs until N are completed, then prints elapsed seconds and microseconds of CPU time.
//
// Usage: node work.js SOCKET N URL SETTINGS
//
// Settings: PROCESSESxCONCURRENCY, then any of
//   ,remove    removes each job when it is completed
//   ,pipeline  lets ioredis send all commands of one turn of the event loop in one write (`enableAutoPipelining`)
//   ,fetch     sends messages with Node.js' built-in fetch instead of undici's Pool, the fastest client of undici

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { Worker } from 'bullmq';
import { Pool } from 'undici';
import { message } from './message.js';

const [socket, n, url, settings] = process.argv.slice(2);
const [size, ...switches] = settings.split(',');
const [processes, concurrency] = size.split('x').map(Number);

const path = '/v25.0/3001/messages';
const headers = { authorization: 'Bearer token', 'content-type': 'application/json' };

if (process.send) work();
else await lead();

/** Starts all processes at the same time. The clock stops at the last completion in any of them. */
async function lead() {
  const children = Array.from({ length: processes }, () => fork(process.argv[1], process.argv.slice(2)));
  await Promise.all(children.map((child) => once(child, 'message')));
  const told = new Map();
  const began = Date.now();
  await new Promise((resolve, reject) => {
    for (const child of children) {
      child.on('exit', () => reject(new Error('a worker ended before its work')));
      child.on('message', (progress) => {
        told.set(child, progress);
        if (sum(told, ({ completed }) => completed) === Number(n)) resolve();
      });
      child.send('go');
    }
  });
  const ended = Math.max(...[...told.values()].map(({ at }) => at));
  console.log(((ended - began) / 1000).toFixed(6), sum(told, ({ cpu }) => cpu));
  for (const child of children) child.removeAllListeners('exit').kill();
}

function sum(told, part) {
  return [...told.values()].map(part).reduce((a, b) => a + b, 0);
}

function work() {
  process.on('message', () => {
    const cpu = process.cpuUsage();
    const post = switches.includes('fetch') ? postByFetch : postByPool();
    const send = async ({ data }) => (await post(message(data))).messages[0].id;
    const worker = new Worker('messages', send, {
      connection: { path: socket, enableAutoPipelining: switches.includes('pipeline') },
      concurrency,
      ...(switches.includes('remove') && { removeOnComplete: { count: 0 } }),
    });
    let completed = 0;
    let told = 0;
    let at = 0;
    worker.on('completed', () => {
      completed += 1;
      at = Date.now();
    });
    worker.on('failed', (_, error) => {
      throw error;
    });
    worker.on('error', (error) => {
      throw error;
    });
    setInterval(() => {
      if (completed === told) return;
      told = completed;
      const { user, system } = process.cpuUsage(cpu);
      process.send({ completed, at, cpu: user + system });
    }, 20);
  });
  process.send('ready');
}

async function postByFetch(body) {
  const answer = await fetch(url + path, { method: 'POST', headers, body });
  if (!answer.ok) throw new Error(`answered ${answer.status}`);
  return answer.json();
}

function postByPool() {
  const pool = new Pool(url, { connections: concurrency, pipelining: 1 });
  return async (body) => {
    const answer = await pool.request({ method: 'POST', path, headers, body });
    if (answer.statusCode !== 200) throw new Error(`answered ${answer.statusCode}`);
    return answer.body.json();
  };
}
