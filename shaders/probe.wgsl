// What a device itself must get right before any kernel can: each entry point writes numbers that the host knows beforehand. All
// operands come from a buffer, so that no compiler can work them out.

@group(0) @binding(0) var<storage, read> given: array<u32>;
@group(0) @binding(1) var<storage, read_write> found: array<u32>;

var<workgroup> shared_words: array<u32, 4096>; // 16 KiB: WebGPU's default

// The number of iterations that a loop of given[0] makes; where given[1] is 1, every other counts twice.
@compute @workgroup_size(1)
fn loops() {
    var count = 0u;
    for (var i = 0u; i < given[0]; i += 1u) {
        count += 1u + (given[1] & i);
    }
    found[0] = count;
}

// Every word of the largest workgroup memory, zero at first, written by one invocation and read by another, once:
// found[i] += i + given[0].
@compute @workgroup_size(256)
fn workgroup_memory(@builtin(local_invocation_index) local: u32) {
    for (var i = local; i < 4096u; i += 256u) {
        shared_words[i] += i + given[0];
    }
    workgroupBarrier();
    for (var i = 255u - local; i < 4096u; i += 256u) {
        found[i] += shared_words[i];
    }
}

// 100 rounds of a sum over the workgroup by halves, each of what every invocation made of the sum before and of its own number.
@compute @workgroup_size(256)
fn barriers(@builtin(local_invocation_index) local: u32) {
    var value = local + given[0];
    for (var round = 0u; round < 100u; round += 1u) {
        shared_words[local] = value;
        workgroupBarrier();
        for (var half = 128u; half > 0u; half /= 2u) {
            if (local < half) {
                shared_words[local] += shared_words[local + half];
            }
            workgroupBarrier();
        }
        value = (shared_words[0] + value * 2654435761u) ^ (value >> 15u);
        workgroupBarrier();
    }
    found[local] = value;
}

// given: a, b as u32, then two i32 as bits.
@compute @workgroup_size(1)
fn integers() {
    let a = given[0];
    let b = given[1];
    let i = bitcast<i32>(given[2]);
    let j = bitcast<i32>(given[3]);
    found[0] = a * b;
    found[1] = a + b;
    found[2] = b - a;
    found[3] = a / b;
    found[4] = a % b;
    found[5] = a >> b;
    found[6] = a << b;
    found[7] = bitcast<u32>(i / j);
    found[8] = bitcast<u32>(i % j);
    found[9] = bitcast<u32>(i >> b);
    found[10] = bitcast<u32>(max(i, j) - min(i, j));
    found[11] = max(a, b) - min(a, b);
    found[12] = u32(f32(a));
    found[13] = bitcast<u32>(i32(f32(i)));
    found[14] = countOneBits(a);
    found[15] = bitcast<u32>(f32(i));
}

// Bits of floats: given[k] as f32, x y z.
@compute @workgroup_size(1)
fn floats() {
    let x = bitcast<f32>(given[0]);
    let y = bitcast<f32>(given[1]);
    let z = bitcast<f32>(given[2]);
    found[0] = bitcast<u32>(x + y);
    found[1] = bitcast<u32>(x * y);
    found[2] = bitcast<u32>(x - y);
    found[3] = bitcast<u32>(x / y);
    found[4] = bitcast<u32>(sqrt(x));
    found[5] = bitcast<u32>(max(x, y) - min(x, y));
    found[6] = bitcast<u32>(floor(-x / y));
    found[7] = bitcast<u32>(abs(y - x));
    found[8] = bitcast<u32>(x * z);
    found[9] = bitcast<u32>(exp(y));
    found[10] = bitcast<u32>(log(x));
}

// What WGSL leaves to the device: numbers too small for a normal float, and those that are none. given: one of the smallest,
// zero, infinity, NaN, as bits.
@compute @workgroup_size(1)
fn edges() {
    let tiny = bitcast<f32>(given[0]);
    let zero = bitcast<f32>(given[1]);
    let infinity = bitcast<f32>(given[2]);
    let nan = bitcast<f32>(given[3]);
    found[0] = bitcast<u32>(tiny * 0.5);
    found[1] = bitcast<u32>(-zero);
    found[2] = bitcast<u32>(infinity * zero);
    found[3] = bitcast<u32>(max(nan, 1.0));
}

// Copies; the host binds windows that begin in the middle of a buffer.
@compute @workgroup_size(64)
fn copy(@builtin(global_invocation_id) id: vec3u) {
    if (id.x < min(arrayLength(&given), arrayLength(&found))) {
        found[id.x] = given[id.x];
    }
}
