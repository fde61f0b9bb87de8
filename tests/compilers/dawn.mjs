// Dawn, Chromium's WebGPU, at the orders of src/backend/wgpu/dawn.rs: a request on standard input is the length of a header in 4
// bytes, the header in JSON, and as many bytes as that announces; so is an answer on standard output. The argument is the
// folder of the packages.
import { readSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

process.env.XDG_RUNTIME_DIR ??= tmpdir(); // Mesa complains without
const folder = process.argv[2];
const packages = createRequire(resolve(folder, 'package.json'));
const { create, globals } = await import(pathToFileURL(packages.resolve('webgpu')));
Object.assign(globalThis, globals);

let device;
const pipelines = [], resources = [], programs = [], modules = new Map();

// What a request makes is told by its place in its list.
const place = (list, made) => list.push(made) - 1;

const handlers = {
  // A device with WebGPU's default limits, and no features but the wanted ones that there are.
  async open({ options, features }) {
    const adapter = await requestAdapter(options);
    features = features.filter(feature => adapter.features.has(feature));
    device = await adapter.requestDevice({ requiredFeatures: features });
    device.lost.then(({ message }) => die(message));
    device.onuncapturederror = ({ error }) => die(error.message);
    device.pushErrorScope('validation');
    const { description, device: name, subgroupMinSize, subgroupMaxSize } = adapter.info;
    const { maxStorageBufferBindingSize, maxBufferSize } = device.limits;
    const subgroup = features.includes('subgroups') && subgroupMinSize === subgroupMaxSize ? subgroupMinSize : null;
    return { name: name || description, driver: description, subgroup, maxStorageBufferBindingSize, maxBufferSize };
  },

  // A kernel without a pipeline: what binds more buffers than the device has.
  module({ source }) {
    if (!modules.has(source)) modules.set(source, device.createShaderModule({ code: source }));
  },

  // A pipeline with exactly these bindings.
  async pipeline({ source, entryPoint, constants, bindings }) {
    handlers.module({ source });
    const entries = bindings.map(binding => ({ ...binding, visibility: GPUShaderStage.COMPUTE }));
    const layout = device.createBindGroupLayout({ entries });
    const pipeline = await device.createComputePipelineAsync({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: modules.get(source), entryPoint, constants },
    });
    return place(pipelines, { pipeline, layout });
  },

  // A buffer that is full of NaN.
  buffer({ size }) {
    const { STORAGE, UNIFORM, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const usage = STORAGE | UNIFORM | COPY_SRC | COPY_DST;
    const buffer = device.createBuffer({ size, usage, mappedAtCreation: true });
    new Uint8Array(buffer.getMappedRange()).fill(0xff);
    buffer.unmap();
    return place(resources, buffer);
  },

  texture({ size, format }) {
    const usage = GPUTextureUsage.STORAGE_BINDING | GPUTextureUsage.COPY_DST;
    const texture = device.createTexture({ size, format, usage });
    const [width, height] = size;
    const nan = new Uint8Array(16 * width * height).fill(0xff);
    device.queue.writeTexture({ texture }, nan, { bytesPerRow: 16 * width }, size);
    return place(resources, texture);
  },

  write({ buffer }, bytes) {
    device.queue.writeBuffer(resources[buffer], 0, bytes);
  },

  program({ dispatches }) {
    const step = ({ pipeline: index, entries, groups, copies }) => {
      const { pipeline, layout } = pipelines[index];
      const resource = ({ resource, offset, size }) => {
        const found = resources[resource];
        return found instanceof GPUTexture ? found.createView() : { buffer: found, offset, size };
      };
      entries = entries.map(entry => ({ binding: entry.binding, resource: resource(entry) }));
      return { pipeline, bindGroup: device.createBindGroup({ layout, entries }), groups, copies };
    };
    return place(programs, dispatches.map(step));
  },

  // Runs a program and answers with the contents of buffers, one after the other.
  async run({ program, read }) {
    const encoder = device.createCommandEncoder();
    for (const { pipeline, bindGroup, groups, copies } of programs[program]) {
      for (const { buffer, offset, texture, origin, extent, bytesPerRow } of copies) {
        const source = { buffer: resources[buffer], offset, bytesPerRow };
        encoder.copyBufferToTexture(source, { texture: resources[texture], origin }, extent);
      }
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindGroup);
      pass.dispatchWorkgroups(...groups);
      pass.end();
    }
    const total = read.reduce((sum, { size }) => sum + size, 0);
    const staging = device.createBuffer({ size: total, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    let offset = 0;
    for (const { buffer, size } of read) {
      encoder.copyBufferToBuffer(resources[buffer], 0, staging, offset, size);
      offset += size;
    }
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const bytes = new Uint8Array(staging.getMappedRange()).slice();
    staging.destroy();
    return bytes;
  },

  free({ program, own }) {
    programs[program] = undefined;
    for (const index of own) {
      resources[index].destroy();
      resources[index] = undefined;
    }
  },
};

// The machine's own Vulkan, or SwiftShader where Dawn does not take it.
async function requestAdapter(options) {
  for (const driver of [process.env.VK_DRIVER_FILES, resolve(folder, 'swiftshader/vk_swiftshader_icd.json')]) {
    if (driver) process.env.VK_DRIVER_FILES = driver;
    globalThis.gpu = create(options); // in a local variable it would be collected while it is used
    const adapter = await gpu.requestAdapter();
    if (adapter) return adapter;
  }
  throw new Error('there is no adapter that Dawn takes');
}

function die(message) {
  console.error(`Dawn: ${message}`);
  process.exit(1);
}

// Standard input's next bytes; fewer than asked for at its end.
function read(length) {
  const bytes = Buffer.alloc(length);
  let have = 0;
  while (have < length) {
    const more = readSync(0, bytes, have, length - have);
    if (more === 0) break;
    have += more;
  }
  return bytes.subarray(0, have);
}

function write(bytes) {
  for (let done = 0; done < bytes.length; ) done += writeSync(1, bytes, done);
}

for (let length; (length = read(4)).length === 4; ) {
  const { request, bytes, ...more } = JSON.parse(read(length.readUInt32LE()));
  const payload = read(bytes);
  let answer, error = null;
  try {
    answer = await handlers[request](more, payload);
  } catch (problem) {
    error = problem.message;
  }
  const invalid = await device?.popErrorScope();
  device?.pushErrorScope('validation');
  error = invalid?.message ?? error;
  const found = answer instanceof Uint8Array ? answer : Buffer.alloc(0);
  const header = Buffer.from(JSON.stringify({ error, answer: found.length ? null : answer, bytes: found.length }));
  const size = Buffer.alloc(4);
  size.writeUInt32LE(header.length);
  write(Buffer.concat([size, header, found]));
}
process.exit(0);
