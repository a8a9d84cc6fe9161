// A session with node-postgres: typed queries, named statements, cursors, a change stream, errors, a pool.
//
// node session.js PORT; prints `ok` at the end. Run by tests/tests/drivers.rs, with NODE_PATH set.

const assert = require('node:assert');
const { Client, Pool } = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');

const config = { host: '127.0.0.1', port: Number(process.argv[2]), user: 'tidemill', database: 'tidemill' };

async function connected(options = {}) {
  const client = new Client({ ...config, ...options });
  await client.connect();
  return client;
}

async function fails(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail('no error');
}

async function main() {
  const client = await connected();
  await client.query(
    'CREATE TABLE t (id integer PRIMARY KEY, n numeric(10,2), s text, at timestamptz, j jsonb, b bytea, a integer[], ' +
      'f double precision, ok boolean, big bigint, names text[])',
  );
  const values = [1, '1.50', "it's", new Date(0), { a: 1 }, Buffer.from([0, 255]), [1, 2], 1.5, true, '9007199254740993', ['a', 'b c']];
  await client.query('INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)', values);
  const { rows } = await client.query({ text: 'SELECT * FROM t', rowMode: 'array' });
  assert.deepStrictEqual(rows, [values]);
  for (let i = 0; i < 3; i++) {
    const named = await client.query({ name: 'named', text: 'SELECT $1::integer + 1 AS x', values: [i] });
    assert.deepStrictEqual(named.rows, [{ x: i + 1 }]);
  }
  const binary = await client.query({ text: 'SELECT id, big, ok FROM t WHERE id = $1', values: [1], binary: true });
  assert.deepStrictEqual(binary.rows, [{ id: 1, big: '9007199254740993', ok: true }]);

  const unknown = await fails(client.query('SELECT nope FROM t'));
  assert.deepStrictEqual([unknown.code, unknown.position], ['42703', '8']);
  const twice = await fails(client.query('INSERT INTO t (id) VALUES (1)'));
  assert.strictEqual(twice.code, '23505');
  assert.match(twice.detail, /Key \(id\)=\(1\) already exists/);

  await client.query('BEGIN');
  await client.query('INSERT INTO t (id) VALUES (2)');
  await client.query('SAVEPOINT a');
  await client.query('INSERT INTO t (id) VALUES (3)');
  await client.query('ROLLBACK TO a');
  await client.query('COMMIT');
  await client.query('INSERT INTO t (id) SELECT g FROM generate_series(100, 1099) AS g');
  assert.strictEqual((await client.query('SELECT id FROM t')).rowCount, 1002);

  // A portal that is read in pieces, and one that is left early.
  const cursor = client.query(new Cursor('SELECT id FROM t WHERE id >= $1 ORDER BY id', [100]));
  assert.deepStrictEqual((await cursor.read(2)).map((row) => row.id), [100, 101]);
  assert.strictEqual((await cursor.read(2000)).length, 998);
  await cursor.close();
  const early = client.query(new Cursor('SELECT id FROM t ORDER BY id'));
  await early.read(1);
  await early.close();
  let streamed = 0;
  for await (const _ of client.query(new QueryStream('SELECT id FROM t', [], { batchSize: 50 }))) streamed++;
  assert.strictEqual(streamed, 1002);

  // A change stream: each row as it comes.
  const follower = await connected();
  const changes = follower.query(new Cursor('SUBSCRIBE t WITH (SNAPSHOT = false)'));
  const next = changes.read(1);
  let change;
  const read = next.then((rows) => ([change] = rows));
  // The subscription begins when the server comes to it; what is inserted before that it doesn't give.
  let id = 5000;
  while (!change) await client.query('INSERT INTO t (id, s) VALUES ($1, $2)', [id++, 'live']);
  await read;
  assert.deepStrictEqual([change.diff, change.s], ['1', 'live']);
  assert.ok(change.id >= 5000 && change.id < id);
  follower.on('error', () => {}); // its connection is cut, as by a client that dies
  follower.connection.stream.destroy();

  const limited = await connected({ statement_timeout: 200 });
  const late = await fails(limited.query('SELECT count(*) FROM generate_series(1, 5000000) AS a, generate_series(1, 5000) AS b'));
  assert.strictEqual(late.code, '57014');
  await limited.end();
  const optioned = await connected({ options: '-c application_name=optioned' });
  assert.strictEqual((await optioned.query('SHOW application_name')).rows[0].application_name, 'optioned');
  await optioned.end();
  const pool = new Pool({ ...config, max: 4 });
  const all = await Promise.all([...Array(20).keys()].map((i) => pool.query('SELECT $1::integer AS x', [i])));
  assert.deepStrictEqual(all.map((result) => result.rows[0].x), [...Array(20).keys()]);
  await pool.end();
  await client.end();
}

main().then(
  () => console.log('ok'),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
