// A session with hypeman's npm client; HYPEMAN_BASE_URL and HYPEMAN_API_KEY say with whom.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import Hypeman from '@onkernel/hypeman';

const client = new Hypeman({ maxRetries: 0 });
const GPU = '0000:a2:00.0';

test('a device is registered, found, listed and unregistered', async () => {
  const tags = { team: 'ml', env: 'prod' };
  const device = await client.devices.create({ pci_address: GPU, name: 'l4-gpu', tags });
  assert.equal(device.type, 'gpu');
  assert.equal(device.attached_to, null);
  assert.deepEqual(await client.devices.retrieve('l4-gpu'), device);
  assert.deepEqual(await client.devices.list({ tags: { team: 'ml' } }), [device]);
  assert.deepEqual(await client.devices.list({ tags: { team: 'web' } }), []);
  await client.devices.delete(device.id);
  assert.deepEqual(await client.devices.list(), []);
});

test('slices are listed, read and deleted', async () => {
  for (const profile of ['GRID T4-4Q', 'NVIDIA L40S-8Q']) {
    const made = await client.post('/devices', { body: { profile, name: 'slice' } });
    assert.equal(made.profile, profile);
    assert.deepEqual(await client.devices.list(), [made]);
    assert.deepEqual(await client.devices.retrieve('slice'), made);
    await client.devices.delete(made.id);
    assert.deepEqual(await client.devices.list(), []);
  }
});

test('available devices have their names', async () => {
  const available = await client.devices.listAvailable();
  const gpu = available.find((each) => each.pci_address === GPU);
  assert.equal(gpu.device_name, 'AD104GL [L4]');
});

test('the host has resources', async () => {
  const resources = await client.resources.get();
  assert.equal(resources.cpu.capacity, 64);
  assert.equal(resources.gpu.mode, 'passthrough');
  assert.deepEqual(resources.gpu.devices.filter((each) => !each.available).length, 1);
  assert.deepEqual(
    resources.allocations.map((each) => each.instance_name),
    ['builder', 'inference'],
  );
});

test('the host has capabilities', async () => {
  const capabilities = await client.capabilities.get();
  assert.deepEqual(capabilities.features, ['devices']);
  assert.equal(capabilities.host.os, 'linux');
});

test("errors are the client's own", async () => {
  await assert.rejects(client.devices.retrieve('nobody'), Hypeman.NotFoundError);
  await assert.rejects(client.devices.create({ pci_address: 'x' }), Hypeman.BadRequestError);
  const stranger = new Hypeman({ apiKey: 'wrong', maxRetries: 0 });
  await assert.rejects(stranger.resources.get(), Hypeman.AuthenticationError);
});
